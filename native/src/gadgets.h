/* SPDX-License-Identifier: Apache-2.0 */
/* Three short pieces of the program's own code through which a thread is led back. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "podferry/error.h"

enum pf_gadget_registers {
	PF_GADGET_RDX = 2, /* as the ModR/M byte counts them */
	PF_GADGET_RBX = 3,
	PF_GADGET_RSI = 6,
};

struct pf_gadgets {
	uint64_t syscall_ret;
	uint64_t pop_rax_ret;
	uint64_t store_ret; /* mov %eax,(STORE_REGISTER); ret */
	int store_register;
};

/* Looks for them in what PID has mapped of files to execute. -ENOTSUP: they are not all there. */
int pf_gadgets_find(pid_t pid, struct pf_gadgets *out, struct pf_error *err);
