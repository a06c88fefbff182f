/* SPDX-License-Identifier: Apache-2.0 */
/* The way back that a stopped thread is given before its registers are touched.
 *
 * The thread is sent into a system call with a stack of ours. Whoever stopped it may be killed at
 * any moment: then the thread returns from the call into pieces of its own program
 * (pf_gadgets) that close what was opened and end in rt_sigreturn with a frame of what it was
 * doing. So at no moment are there registers that nobody restores. */
#pragma once

#include <stdint.h>
#include <sys/user.h>

#include "gadgets.h"
#include "remote.h"

/* Chain, frames and the largest floating-point state there is (8 KiB of it are AMX tiles). */
#define PF_ESCAPE_BYTES (4 * 4096)

struct pf_escape {
	struct pf_gadgets gadgets;
	uint64_t at;         /* PF_ESCAPE_BYTES of the target's main stack that nobody uses */
	uint64_t used_bytes; /* of them */
	uint64_t opening_sp; /* the stack to open with: what was opened is closed */
	uint64_t closing_sp; /* the stack to close with */
	uint64_t opened;     /* where the opened descriptor is kept on the way back */
};

/* Writes the way back to REGS and SIGMASK at ESCAPE->at; nothing else of the thread is changed. */
int pf_escape_prepare(struct pf_escape *escape, const struct pf_remote *remote,
		      const struct user_regs_struct *regs, uint64_t sigmask, struct pf_error *err);

/* Registers, made of REGS, that call userfaultfd(FLAGS), and that close DESCRIPTOR. */
struct user_regs_struct pf_escape_opening(const struct pf_escape *escape,
					  const struct user_regs_struct *regs, uint64_t flags);
struct user_regs_struct pf_escape_closing(const struct pf_escape *escape,
					  const struct user_regs_struct *regs, int descriptor);

/* Overwrites the way back with zeros. */
void pf_escape_wipe(const struct pf_escape *escape, pid_t pid);
