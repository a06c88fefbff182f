// SPDX-License-Identifier: Apache-2.0
/* Owns the ptrace calls: stop, run to the next stop, registers, signal mask, release. */
#include "remote.h"

#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"

#define STOP_WAIT_NS (250 * 1000 * 1000ULL)
/* It is stopped for tens of microseconds between two stops: asking again at once is quicker than
 * being woken. */
#define SPIN_NS     (2 * 1000 * 1000ULL)
#define PAUSE_NS    (100 * 1000L)
#define SYSCALL_BIT 0x80 /* what PTRACE_O_TRACESYSGOOD adds to the signal */

static int wait_for_stop(struct pf_remote *remote, int *status, struct pf_error *err)
{
	uint64_t begun = pf_now_ns();

	for (;;) {
		pid_t found = waitpid(remote->tid, status, __WALL | __WNOTHREAD | WNOHANG);
		uint64_t waited = pf_now_ns() - begun;

		if (found < 0 && errno != EINTR)
			return pf_fail_errno(err, "waitpid of thread %d", remote->tid);
		if (found == remote->tid && WIFSTOPPED(*status))
			return 0;
		if (found == remote->tid) {
			int tid = remote->tid;

			remote->tid = 0;
			return pf_fail(err, -ESRCH, "thread %d has ended", tid);
		}
		if (waited > STOP_WAIT_NS)
			return pf_fail(err, -ETIMEDOUT, "thread %d does not stop", remote->tid);
		if (waited > SPIN_NS)
			nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
		else
			sched_yield();
	}
}

static int resume(const struct pf_remote *remote, int request, int signal_number,
		  struct pf_error *err)
{
	if (ptrace(request, remote->tid, NULL, (void *)(intptr_t)signal_number) < 0)
		return pf_fail_errno(err, "resuming thread %d", remote->tid);
	return 0;
}

static bool is_event_stop(int status)
{
	return status >> 16 == PTRACE_EVENT_STOP;
}

/* Passes on the signals that come before the stop that PTRACE_INTERRUPT asks for. */
static int wait_for_trap(struct pf_remote *remote, struct pf_error *err)
{
	for (;;) {
		int status, code = wait_for_stop(remote, &status, err);

		if (code < 0)
			return code;
		if (is_event_stop(status))
			return 0;
		code = resume(remote, PTRACE_CONT, WSTOPSIG(status), err);
		if (code < 0)
			return code;
	}
}

int pf_remote_stop(struct pf_remote *remote, pid_t tid, bool suspend_seccomp, struct pf_error *err)
{
	uintptr_t options = PTRACE_O_TRACESYSGOOD;

	if (suspend_seccomp)
		options |= PTRACE_O_SUSPEND_SECCOMP;
	if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)options) < 0)
		return pf_fail_errno(err, "PTRACE_SEIZE of thread %d", tid);
	remote->tid = tid;
	if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
		return pf_fail_errno(err, "PTRACE_INTERRUPT of thread %d", tid);
	return wait_for_trap(remote, err);
}

int pf_remote_run_to_syscall(struct pf_remote *remote, bool *entry, struct pf_error *err)
{
	struct __ptrace_syscall_info info;
	int code = resume(remote, PTRACE_SYSCALL, 0, err);

	for (;;) {
		int status;

		if (code == 0)
			code = wait_for_stop(remote, &status, err);
		if (code < 0)
			return code;
		if (WSTOPSIG(status) == (SIGTRAP | SYSCALL_BIT))
			break;
		/* A group stop, as no other signal comes through the mask. */
		code = resume(remote, PTRACE_SYSCALL, is_event_stop(status) ? 0 : WSTOPSIG(status),
			      err);
	}
	if (ptrace(PTRACE_GET_SYSCALL_INFO, remote->tid, (void *)sizeof(info), &info) < 0)
		return pf_fail_errno(err, "PTRACE_GET_SYSCALL_INFO of thread %d", remote->tid);
	*entry = info.op == PTRACE_SYSCALL_INFO_ENTRY;
	return 0;
}

int pf_remote_run_to_trap(struct pf_remote *remote, struct pf_error *err)
{
	int code;

	if (ptrace(PTRACE_INTERRUPT, remote->tid, NULL, NULL) < 0)
		return pf_fail_errno(err, "PTRACE_INTERRUPT of thread %d", remote->tid);
	code = resume(remote, PTRACE_CONT, 0, err);
	return code < 0 ? code : wait_for_trap(remote, err);
}

int pf_remote_get_regs(const struct pf_remote *remote, struct user_regs_struct *out,
		       struct pf_error *err)
{
	struct iovec part = {.iov_base = out, .iov_len = sizeof(*out)};

	if (ptrace(PTRACE_GETREGSET, remote->tid, (void *)NT_PRSTATUS, &part) < 0)
		return pf_fail_errno(err, "reading the registers of thread %d", remote->tid);
	if (part.iov_len != sizeof(*out))
		return pf_fail(err, -EOPNOTSUPP, "thread %d runs a 32-bit program", remote->tid);
	return 0;
}

int pf_remote_set_regs(const struct pf_remote *remote, const struct user_regs_struct *regs,
		       struct pf_error *err)
{
	struct iovec part = {.iov_base = (void *)regs, .iov_len = sizeof(*regs)};

	if (ptrace(PTRACE_SETREGSET, remote->tid, (void *)NT_PRSTATUS, &part) < 0)
		return pf_fail_errno(err, "writing the registers of thread %d", remote->tid);
	return 0;
}

int pf_remote_get_sigmask(const struct pf_remote *remote, uint64_t *out, struct pf_error *err)
{
	if (ptrace(PTRACE_GETSIGMASK, remote->tid, (void *)sizeof(*out), out) < 0)
		return pf_fail_errno(err, "reading the signal mask of thread %d", remote->tid);
	return 0;
}

int pf_remote_set_sigmask(const struct pf_remote *remote, uint64_t mask, struct pf_error *err)
{
	if (ptrace(PTRACE_SETSIGMASK, remote->tid, (void *)sizeof(mask), &mask) < 0)
		return pf_fail_errno(err, "writing the signal mask of thread %d", remote->tid);
	return 0;
}

void pf_remote_release(struct pf_remote *remote)
{
	/* Where it is not stopped, the end of this thread lets it go. */
	if (remote->tid > 0)
		ptrace(PTRACE_DETACH, remote->tid, NULL, NULL);
	remote->tid = 0;
}
