// SPDX-License-Identifier: Apache-2.0
/* Owns the rules of restarting: which interrupted calls are begun again, and by whom.
 *
 * Sources: arch/x86/kernel/signal.c (arch_do_signal_or_restart), kernel/rseq.c, Linux 6.18;
 * signal(7), "Interruption of system calls and library functions by stop signals". */
#if defined(__x86_64__)

#include "interrupted.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "maps.h"

/* The kernel's own, which no program sees (include/linux/errno.h). */
#define RESTART_ALWAYS_OR_BY_FLAG 512
#define RESTART_NEVER_INTERRUPTED 513
#define RESTART_WITHOUT_HANDLER   514
#define RESTART_BLOCK             516

#define SYSCALL_BYTES 2

#define RSEQ_REQUEST     0x420f /* PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13 */
#define RSEQ_CRITICAL_AT 8      /* in struct rseq: the address of a struct rseq_cs, or 0 */

struct rseq_setup {
	uint64_t at;
	uint32_t bytes;
	uint32_t signature;
	uint32_t flags;
	uint32_t padding;
};

struct rseq_critical {
	uint32_t version;
	uint32_t flags;
	uint64_t start;
	uint64_t length;
	uint64_t abort;
};

/* Waits that end with EINTR although nobody handles a signal; nothing has happened yet. */
static bool waits_again(long number)
{
	static const long numbers[] = {
		SYS_epoll_wait, SYS_epoll_pwait,   SYS_epoll_pwait2,  SYS_semop,
		SYS_semtimedop, SYS_msgrcv,        SYS_msgsnd,        SYS_rt_sigtimedwait,
		SYS_read,       SYS_readv,         SYS_recvfrom,      SYS_recvmsg,
		SYS_recvmmsg,   SYS_write,         SYS_writev,        SYS_sendto,
		SYS_sendmsg,    SYS_accept,        SYS_accept4,       SYS_io_getevents,
		SYS_connect,    SYS_io_pgetevents, SYS_io_uring_enter};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (numbers[i] == number)
			return true;
	return false;
}

static bool has_signal(pid_t tid)
{
	uint64_t own = 0, shared = 0, blocked = 0;

	if (pf_proc_status(tid, "SigPnd:", 16, &own) < 0 ||
	    pf_proc_status(tid, "ShdPnd:", 16, &shared) < 0 ||
	    pf_proc_status(tid, "SigBlk:", 16, &blocked) < 0)
		return true; /* then its EINTR stays */
	return ((own | shared) & ~blocked) != 0;
}

static bool read_from(pid_t tid, uint64_t at, void *to, size_t bytes)
{
	struct iovec local = {to, bytes};
	struct iovec remote = {(void *)(uintptr_t)at, bytes};

	return process_vm_readv(tid, &local, 1, &remote, 1, 0) == (ssize_t)bytes;
}

/* Where the program goes on if it is inside of a restartable sequence. As the kernel forgets the
 * sequence when it sees the thread elsewhere, it cannot be let go on in the middle of it. */
static uint64_t after_sequence(pid_t tid, uint64_t ip)
{
	struct rseq_setup setup = {0};
	struct rseq_critical critical;
	uint64_t critical_at = 0;

	if (ptrace(RSEQ_REQUEST, tid, (void *)sizeof(setup), &setup) < 0 || setup.at == 0)
		return ip;
	if (!read_from(tid, setup.at + RSEQ_CRITICAL_AT, &critical_at, sizeof(critical_at)) ||
	    critical_at == 0 || !read_from(tid, critical_at, &critical, sizeof(critical)))
		return ip;
	return ip - critical.start < critical.length ? critical.abort : ip;
}

static void begin_again(struct user_regs_struct *regs)
{
	regs->rax = regs->orig_rax;
	regs->orig_rax = -1ULL;
	regs->rip -= SYSCALL_BYTES;
}

struct user_regs_struct pf_interrupted_resumed(const struct pf_remote *remote,
					       const struct user_regs_struct *regs)
{
	struct user_regs_struct out = *regs;

	if ((long)regs->orig_rax < 0)
		out.rip = after_sequence(remote->tid, regs->rip);
	else if ((long)regs->rax == -EINTR && waits_again((long)regs->orig_rax) &&
		 !has_signal(remote->tid))
		begin_again(&out);
	return out;
}

struct user_regs_struct pf_interrupted_restarted(const struct user_regs_struct *resumed)
{
	struct user_regs_struct out = *resumed;
	long result = (long)resumed->rax;

	if ((long)resumed->orig_rax >= 0 &&
	    (result == -RESTART_ALWAYS_OR_BY_FLAG || result == -RESTART_NEVER_INTERRUPTED ||
	     result == -RESTART_WITHOUT_HANDLER || result == -RESTART_BLOCK))
		begin_again(&out);
	return out;
}

#endif
