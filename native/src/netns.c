// SPDX-License-Identifier: Apache-2.0
/* Owns the probes' throw-away network namespaces. */
#include "netns.h"

#include <errno.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "cleanup.h"
#include "error.h"

struct task {
	int (*body)(void *argument, struct pf_error *err);
	void *argument;
	struct pf_error *err;
	int code;
};

static int loopback_up(struct pf_error *err)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	PF_AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return pf_fail_errno(err, "socket");
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return pf_fail_errno(err, "cannot set lo up");
	return 0;
}

static void *run(void *pointer)
{
	struct task *task = pointer;

	if (unshare(CLONE_NEWNET) < 0)
		task->code = pf_fail_errno(task->err, "cannot make a network namespace");
	else
		task->code = loopback_up(task->err);
	if (task->code == 0)
		task->code = task->body(task->argument, task->err);
	return NULL;
}

int pf_in_new_netns(int (*body)(void *argument, struct pf_error *err), void *argument,
		    struct pf_error *err)
{
	struct task task = {.body = body, .argument = argument, .err = err};
	pthread_t thread;
	int code = pthread_create(&thread, NULL, run, &task);

	if (code != 0)
		return pf_fail(err, -code, "cannot start a thread: %s", strerror(code));
	pthread_join(thread, NULL);
	return task.code;
}
