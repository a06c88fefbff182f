// SPDX-License-Identifier: Apache-2.0
/* Owns the life of the probes' children: they die with us and are always reaped. */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "error.h"

static void run_child(int status_fd, pid_t parent, int (*body)(void *), void *argument)
{
	int value;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) /* it died before the line above */
		_exit(1);
	value = body(argument);
	if (write(status_fd, &value, sizeof(value)) != sizeof(value))
		_exit(1);
	for (;;)
		pause();
}

int pf_child_start(struct pf_child *child, int (*body)(void *), void *argument,
		   struct pf_error *err)
{
	int ends[2];
	pid_t parent = getpid();

	if (pipe2(ends, O_CLOEXEC) < 0)
		return pf_fail_errno(err, "pipe2");
	child->pid = fork();
	if (child->pid == 0)
		run_child(ends[1], parent, body, argument);
	close(ends[1]);
	if (child->pid < 0) {
		int code = pf_fail_errno(err, "fork");

		close(ends[0]);
		child->pid = 0;
		return code;
	}
	child->status_fd = ends[0];
	return 0;
}

int pf_child_value(struct pf_child *child, int *value, struct pf_error *err)
{
	ssize_t got;

	do
		got = read(child->status_fd, value, sizeof(*value));
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return pf_fail_errno(err, "reading from the child");
	if (got != sizeof(*value))
		return pf_fail(err, -ECHILD, "the child died before it answered");
	return 0;
}

void pf_child_end(struct pf_child *child)
{
	if (child->pid > 0) {
		kill(child->pid, SIGKILL);
		while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	pf_cleanup_fd(&child->status_fd);
	child->pid = 0;
	child->status_fd = -1;
}
