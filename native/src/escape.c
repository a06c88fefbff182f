// SPDX-License-Identifier: Apache-2.0
/* Owns the layout of the way back: chains of return addresses and frames for rt_sigreturn.
 *
 * Sources: arch/x86/include/uapi/asm/sigcontext.h (the floating-point state's last words),
 * arch/x86/kernel/signal_64.c (what rt_sigreturn reads; an alternate stack that is not valid is
 * left out of account), Linux 6.18. */
#if defined(__x86_64__)

#include "escape.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>

#include "cleanup.h"
#include "error.h"

#define FLAG_XSTATE         1 /* uc_flags: the state is more than the oldest 512 bytes */
#define FLAG_STACK_SEGMENT  2 /* ss is in the frame */
#define FLAG_STRICT_SEGMENT 4 /* and is to be taken as it is */
#define NO_SUCH_STACK       0x7f
#define FRAME_BYTES         ((offsetof(ucontext_t, uc_sigmask) + 8 + 15) / 16 * 16)
#define STATE_WORDS_AT      464 /* of the state: what the kernel wants to know about it */
#define STATE_FIRST_MAGIC   0x46505853U
#define STATE_LAST_MAGIC    0x46505845U
#define STATE_LEAST_BYTES   576
#define STATE_TILE_DATA     (1ULL << 18)
#define STATE_PRESENT_AT    512
#define CPUID_STATE         0xd
#define CLOSING_CHAIN_WORDS 3
#define OPENING_CHAIN_WORDS 4
#define EVERY_SIGNAL        (~0ULL)
#define TRAP_FLAG           0x100

struct state_words {
	uint32_t first_magic;
	uint32_t bytes_with_magic;
	uint64_t features;
	uint32_t bytes;
	uint32_t padding[7];
};

_Static_assert(sizeof(struct state_words) == 48, "struct _fpx_sw_bytes");

struct layout {
	uint64_t opening_chain[OPENING_CHAIN_WORDS];
	uint8_t closing_frame[FRAME_BYTES]; /* right behind: rt_sigreturn reads from the stack on */
	uint64_t closing_chain[CLOSING_CHAIN_WORDS];
	uint8_t original_frame[FRAME_BYTES];
	uint8_t padding[(64 - (8 * 7 + 2 * FRAME_BYTES) % 64) % 64];
	uint8_t state[];
};

_Static_assert(offsetof(struct layout, closing_frame) == 8 * OPENING_CHAIN_WORDS, "no gap");
_Static_assert(offsetof(struct layout, original_frame) ==
		       offsetof(struct layout, closing_chain) + 8 * CLOSING_CHAIN_WORDS,
	       "no gap");
_Static_assert(offsetof(struct layout, state) % 64 == 0, "as XRSTOR wants it");

static void fill_frame(uint8_t *where, const struct user_regs_struct *regs, uint64_t sigmask,
		       uint64_t state_at)
{
	ucontext_t frame = {.uc_flags = FLAG_XSTATE | FLAG_STACK_SEGMENT | FLAG_STRICT_SEGMENT};
	greg_t *to = frame.uc_mcontext.gregs;
	const unsigned long long values[][2] = {
		{REG_R8, regs->r8},
		{REG_R9, regs->r9},
		{REG_R10, regs->r10},
		{REG_R11, regs->r11},
		{REG_R12, regs->r12},
		{REG_R13, regs->r13},
		{REG_R14, regs->r14},
		{REG_R15, regs->r15},
		{REG_RDI, regs->rdi},
		{REG_RSI, regs->rsi},
		{REG_RBP, regs->rbp},
		{REG_RBX, regs->rbx},
		{REG_RDX, regs->rdx},
		{REG_RAX, regs->rax},
		{REG_RCX, regs->rcx},
		{REG_RSP, regs->rsp},
		{REG_RIP, regs->rip},
		{REG_EFL, regs->eflags},
		{REG_CSGSFS, (regs->cs & 0xffff) | (regs->ss & 0xffff) << 48},
	};

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		to[values[i][0]] = (greg_t)values[i][1];
	frame.uc_mcontext.fpregs = (fpregset_t)(uintptr_t)state_at;
	frame.uc_stack.ss_flags = NO_SUCH_STACK;
	memcpy(where, &frame, offsetof(ucontext_t, uc_sigmask));
	memcpy(where + offsetof(ucontext_t, uc_sigmask), &sigmask, sizeof(sigmask));
}

/* Its length without the tiles, for which a task that has never used them has no room. */
static uint64_t state_bytes(uint64_t features)
{
	uint64_t bytes = STATE_LEAST_BYTES;

	for (unsigned int feature = 2; feature < 63; feature++) {
		unsigned int size, offset, flags, unused;

		if (!(features >> feature & 1) ||
		    !__get_cpuid_count(CPUID_STATE, feature, &size, &offset, &flags, &unused))
			continue;
		if (offset + size > bytes)
			bytes = offset + size;
	}
	return bytes;
}

/* Puts the floating-point state where a frame wants it; USED_BYTES gets its length. */
static int fill_state(uint8_t *where, size_t room, const struct pf_remote *remote,
		      uint64_t *used_bytes, struct pf_error *err)
{
	struct iovec part = {.iov_base = where, .iov_len = (room - sizeof(uint32_t)) / 64 * 64};
	struct state_words words = {.first_magic = STATE_FIRST_MAGIC};
	const uint32_t last_magic = STATE_LAST_MAGIC;
	uint64_t features, present;

	if (ptrace(PTRACE_GETREGSET, remote->tid, (void *)NT_X86_XSTATE, &part) < 0)
		return pf_fail_errno(err, "reading the floating-point state of thread %d",
				     remote->tid);
	if (part.iov_len < STATE_LEAST_BYTES)
		return pf_fail(err, -ENOTSUP, "the processor has no XSAVE");
	memcpy(&features, where + STATE_WORDS_AT, sizeof(features));
	memcpy(&present, where + STATE_PRESENT_AT, sizeof(present));
	if (!(present & STATE_TILE_DATA))
		features &= ~STATE_TILE_DATA;
	words.features = features;
	words.bytes = (uint32_t)state_bytes(features);
	words.bytes_with_magic = words.bytes + (uint32_t)sizeof(last_magic);
	if (words.bytes > part.iov_len)
		return pf_fail(err, -ENOTSUP, "a floating-point state of %u bytes", words.bytes);
	memcpy(where + STATE_WORDS_AT, &words, sizeof(words));
	memcpy(where + words.bytes, &last_magic, sizeof(last_magic));
	*used_bytes = words.bytes_with_magic;
	return 0;
}

static int write_to(pid_t tid, uint64_t at, const void *from, uint64_t bytes, struct pf_error *err)
{
	struct iovec local = {(void *)from, bytes};
	struct iovec remote = {(void *)(uintptr_t)at, bytes};

	if (process_vm_writev(tid, &local, 1, &remote, 1, 0) != (ssize_t)bytes)
		return pf_fail_errno(err, "writing to the stack of thread %d", tid);
	return 0;
}

int pf_escape_prepare(struct pf_escape *escape, const struct pf_remote *remote,
		      const struct user_regs_struct *regs, uint64_t sigmask, struct pf_error *err)
{
	PF_AUTO_FREE struct layout *layout = calloc(1, PF_ESCAPE_BYTES);
	const struct pf_gadgets *gadgets = &escape->gadgets;
	uint64_t state_used = 0;
	struct user_regs_struct closing;
	int code;

	if (!layout)
		return pf_fail(err, -ENOMEM, "no memory for a stack");
	escape->opening_sp = escape->at + offsetof(struct layout, opening_chain);
	escape->closing_sp = escape->at + offsetof(struct layout, closing_chain);
	escape->opened = escape->at + offsetof(struct layout, closing_frame) +
			 offsetof(ucontext_t, uc_mcontext.gregs[REG_RDI]);
	layout->opening_chain[0] = gadgets->store_ret;
	layout->opening_chain[1] = gadgets->pop_rax_ret;
	layout->opening_chain[2] = SYS_rt_sigreturn;
	layout->opening_chain[3] = gadgets->syscall_ret;
	memcpy(layout->closing_chain, layout->opening_chain + 1, sizeof(layout->closing_chain));
	closing = pf_escape_closing(escape, regs, -1);
	fill_frame(layout->closing_frame, &closing, EVERY_SIGNAL, 0);
	fill_frame(layout->original_frame, regs, sigmask,
		   escape->at + offsetof(struct layout, state));
	code = fill_state(layout->state, PF_ESCAPE_BYTES - offsetof(struct layout, state), remote,
			  &state_used, err);
	escape->used_bytes = offsetof(struct layout, state) + state_used;
	return code < 0 ? code : write_to(remote->tid, escape->at, layout, escape->used_bytes, err);
}

/* Registers that make a system call of one argument with a stack of ours. */
static struct user_regs_struct calling(const struct pf_escape *escape,
				       const struct user_regs_struct *regs, uint64_t number,
				       uint64_t argument, uint64_t sp)
{
	struct user_regs_struct out = *regs;

	out.rip = escape->gadgets.syscall_ret;
	out.rsp = sp;
	out.rax = number;
	out.orig_rax = -1ULL; /* nothing is restarted on the way there */
	out.rdi = argument;
	out.eflags &= ~(unsigned long long)TRAP_FLAG;
	return out;
}

struct user_regs_struct pf_escape_opening(const struct pf_escape *escape,
					  const struct user_regs_struct *regs, uint64_t flags)
{
	struct user_regs_struct out =
		calling(escape, regs, SYS_userfaultfd, flags, escape->opening_sp);

	if (escape->gadgets.store_register == PF_GADGET_RDX)
		out.rdx = escape->opened;
	else if (escape->gadgets.store_register == PF_GADGET_RBX)
		out.rbx = escape->opened;
	else
		out.rsi = escape->opened;
	return out;
}

struct user_regs_struct pf_escape_closing(const struct pf_escape *escape,
					  const struct user_regs_struct *regs, int descriptor)
{
	return calling(escape, regs, SYS_close, (uint32_t)descriptor, escape->closing_sp);
}

void pf_escape_wipe(const struct pf_escape *escape, pid_t pid)
{
	PF_AUTO_FREE uint8_t *zeros = calloc(1, escape->used_bytes);

	if (zeros)
		write_to(pid, escape->at, zeros, escape->used_bytes, NULL);
}

#endif
