/* SPDX-License-Identifier: Apache-2.0 */
/* What a thread was doing when it was stopped, and the registers with which it goes on doing it. */
#pragma once

#include <sys/user.h>

#include "remote.h"

/* To be restored where pf_remote_stop has left the thread: the kernel itself then restarts what it
 * would have restarted. A wait that it would have ended with EINTR is begun again, as nobody has
 * sent a signal; a restartable sequence that was begun is aborted. */
struct user_regs_struct pf_interrupted_resumed(const struct pf_remote *remote,
					       const struct user_regs_struct *regs);

/* The same for a way back without the kernel's help: what waits begins to wait again. */
struct user_regs_struct pf_interrupted_restarted(const struct user_regs_struct *resumed);
