/* SPDX-License-Identifier: Apache-2.0 */
/* One thread of another process, stopped by ptrace from the calling thread.
 *
 * ptrace binds to a thread: all calls come from the one that stopped it, and whatever happens to
 * that thread, the kernel lets the other one go. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "podferry/error.h"

struct pf_remote {
	pid_t tid; /* 0: nothing is stopped */
};

#define PF_REMOTE_NONE                                                                             \
	{                                                                                          \
		.tid = 0                                                                           \
	}

/* Stops TID where PTRACE_INTERRUPT stops it, with seccomp suspended if SUSPEND_SECCOMP.
 * -ETIMEDOUT: it does not stop (frozen, or in an uninterruptible sleep). */
int pf_remote_stop(struct pf_remote *remote, pid_t tid, bool suspend_seccomp, struct pf_error *err);

/* Has it run to the next entry or exit of a system call; ENTRY gets which. */
int pf_remote_run_to_syscall(struct pf_remote *remote, bool *entry, struct pf_error *err);

/* Has it run to where pf_remote_stop leaves it: from there alone does the kernel restart what it
 * has interrupted. */
int pf_remote_run_to_trap(struct pf_remote *remote, struct pf_error *err);

int pf_remote_get_regs(const struct pf_remote *remote, struct user_regs_struct *out,
		       struct pf_error *err);
int pf_remote_set_regs(const struct pf_remote *remote, const struct user_regs_struct *regs,
		       struct pf_error *err);
int pf_remote_get_sigmask(const struct pf_remote *remote, uint64_t *out, struct pf_error *err);
int pf_remote_set_sigmask(const struct pf_remote *remote, uint64_t mask, struct pf_error *err);

/* Lets it run; 0 if nothing is stopped. */
void pf_remote_release(struct pf_remote *remote);

#define PF_AUTO_REMOTE __attribute__((cleanup(pf_remote_release)))
