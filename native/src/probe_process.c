// SPDX-License-Identifier: Apache-2.0
/* Owns the proofs about other processes: reading their memory, taking their descriptors, stopping
 * them, choosing their pid. */
#include "podferry/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "cleanup.h"
#include "error.h"

#define IN_THE_CHILD     0x600d
#define SET_TID_ATTEMPTS 16

static int write_value(void *argument)
{
	*(volatile int *)argument = IN_THE_CHILD;
	return 0;
}

int pf_probe_process_vm_readv(struct pf_error *err)
{
	PF_AUTO_CHILD struct pf_child child = PF_CHILD_NONE;
	volatile int value = 0; /* the child's copy of it is changed, ours is not */
	int seen = 0, ready;
	struct iovec local = {.iov_base = &seen, .iov_len = sizeof(seen)};
	struct iovec remote = {.iov_base = (void *)&value, .iov_len = sizeof(value)};
	int code = pf_child_start(&child, write_value, (void *)&value, err);

	if (code == 0)
		code = pf_child_value(&child, &ready, err);
	if (code < 0)
		return code;
	if (process_vm_readv(child.pid, &local, 1, &remote, 1, 0) < 0)
		return pf_fail_errno(err, "process_vm_readv");
	if (seen != IN_THE_CHILD)
		return pf_fail(err, -ENODATA, "process_vm_readv gave other bytes than the child's");
	return 0;
}

static int nothing(void *argument)
{
	(void)argument;
	return 0;
}

/* A pid that was in use a moment ago, so that it is most likely free and in range. */
static pid_t free_pid(struct pf_error *err)
{
	struct pf_child child = PF_CHILD_NONE;
	int code = pf_child_start(&child, nothing, NULL, err);
	pid_t pid = child.pid;

	pf_child_end(&child);
	return code < 0 ? code : pid;
}

int pf_probe_set_tid(struct pf_error *err)
{
	for (int attempt = 0; attempt < SET_TID_ATTEMPTS; attempt++) {
		pid_t wanted = free_pid(err);
		struct clone_args args = {
			.exit_signal = SIGCHLD,
			.set_tid = (uintptr_t)&wanted,
			.set_tid_size = 1,
		};
		long made;

		if (wanted < 0)
			return wanted;
		made = syscall(SYS_clone3, &args, sizeof(args));
		if (made == 0)
			_exit(0);
		if (made < 0 && errno == EEXIST) /* somebody else was given that pid */
			continue;
		if (made < 0)
			return pf_fail_errno(err, "clone3 with set_tid");
		while (waitpid((pid_t)made, NULL, 0) < 0 && errno == EINTR)
			;
		if (made != wanted)
			return pf_fail(err, -ENODATA, "asked for pid %d, got %ld", wanted, made);
		return 0;
	}
	return pf_fail(err, -EEXIST, "clone3 with set_tid: each of %d pids was taken",
		       SET_TID_ATTEMPTS);
}

struct shared_pipe {
	int read_end;
	int write_end;
};

/* The parent closes its write end, so the only one is the child's. */
static int keep_write_end(void *argument)
{
	const struct shared_pipe *ends = argument;

	close(ends->read_end);
	return 0;
}

int pf_probe_pidfd_getfd(struct pf_error *err)
{
	PF_AUTO_CHILD struct pf_child child = PF_CHILD_NONE;
	PF_AUTO_FD int pidfd = -1;
	PF_AUTO_FD int taken = -1;
	PF_AUTO_FD int read_end = -1;
	struct shared_pipe ends;
	struct stat ours, theirs;
	int pipe_fds[2], ready, code;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return pf_fail_errno(err, "pipe2");
	ends = (struct shared_pipe){.read_end = pipe_fds[0], .write_end = pipe_fds[1]};
	read_end = ends.read_end;
	code = pf_child_start(&child, keep_write_end, &ends, err);
	close(ends.write_end);
	if (code == 0)
		code = pf_child_value(&child, &ready, err);
	if (code < 0)
		return code;
	pidfd = (int)syscall(SYS_pidfd_open, child.pid, 0);
	if (pidfd < 0)
		return pf_fail_errno(err, "pidfd_open");
	taken = (int)syscall(SYS_pidfd_getfd, pidfd, ends.write_end, 0);
	if (taken < 0)
		return pf_fail_errno(err, "pidfd_getfd");
	if (fstat(read_end, &ours) < 0 || fstat(taken, &theirs) < 0)
		return pf_fail_errno(err, "fstat");
	if (ours.st_ino != theirs.st_ino)
		return pf_fail(err, -ENODATA, "pidfd_getfd gave another descriptor");
	return 0;
}

int pf_probe_ptrace(struct pf_error *err)
{
	PF_AUTO_CHILD struct pf_child child = PF_CHILD_NONE;
	int ready, status = 0;
	int code = pf_child_start(&child, nothing, NULL, err);

	if (code == 0)
		code = pf_child_value(&child, &ready, err);
	if (code < 0)
		return code;
	if (ptrace(PTRACE_SEIZE, child.pid, NULL, NULL) < 0)
		return pf_fail_errno(err, "PTRACE_SEIZE");
	if (ptrace(PTRACE_INTERRUPT, child.pid, NULL, NULL) < 0)
		return pf_fail_errno(err, "PTRACE_INTERRUPT");
	if (waitpid(child.pid, &status, 0) < 0)
		return pf_fail_errno(err, "waitpid");
	if (!WIFSTOPPED(status))
		return pf_fail(err, -ENODATA, "the seized child did not stop");
	if (ptrace(PTRACE_DETACH, child.pid, NULL, NULL) < 0)
		return pf_fail_errno(err, "PTRACE_DETACH");
	return 0;
}
