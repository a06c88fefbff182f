/* SPDX-License-Identifier: Apache-2.0 */
/* Owns a container that stands still at the end of its dump, until it runs on or has departed.
 *
 * While it is held its tasks are stopped twice: by CRIU's ptrace and by the frozen cgroup. Either
 * one alone would do, so that neither CRIU's death nor somebody's thaw lets them run. Their sockets
 * are in TCP's repair mode, in which closing sends nothing. */
#include <signal.h>
#include <sys/wait.h>

#include "monitor.h"

#define RESUME_MS 10000

/* CRIU lets go of its tasks as it dies, under the lock that makes it a zombie: if it is none after
 * the cgroup has frozen, no task has run since the dump. */
static bool criu_lives(const struct pr_monitor *monitor)
{
	siginfo_t about = {0};
	if (monitor->criu <= 0)
		return false;
	return waitid(P_PID, (id_t)monitor->criu, &about, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	       about.si_pid == 0;
}

void pr_hold_reached(struct pr_monitor *monitor)
{
	int failed = pr_cgroups_freeze(&monitor->container);
	if (!failed && criu_lives(monitor)) {
		pr_operation_pause(monitor, PR_HELD);
		return;
	}
	if (failed)
		pr_monitor_log(monitor, "the dumped container is not frozen: errno %d", -failed);
	monitor->operation.refused = true;
	if (monitor->criu > 0)
		pr_operation_tell(monitor, false);
}

int32_t pr_hold_resume(struct pr_monitor *monitor, const char **why)
{
	*why = "the container is not held";
	if (monitor->state != PR_HELD)
		return PR_WRONG_STATE;
	pr_operation_go_on(monitor, PR_TO_RESUME, PR_CHECKPOINTING, RESUME_MS);
	monitor->operation.refused = true;
	/* The cgroup stays frozen until CRIU has taken the sockets out of repair and let go: should
	 * it die on the way, nothing runs before that is made up for (sleep.c). */
	if (monitor->criu > 0)
		pr_operation_tell(monitor, false);
	else
		pr_operation_fail(monitor, "CRIU had ended");
	return PR_OK;
}

static bool kill_task(pid_t pid, void *context)
{
	if (pid != *(const pid_t *)context)
		kill(pid, SIGKILL);
	return true;
}

int32_t pr_hold_depart(struct pr_monitor *monitor, int status, const char **why)
{
	*why = "the container is not held";
	if (monitor->state != PR_HELD)
		return PR_WRONG_STATE;
	monitor->agreed = status;
	/* Not before: joining takes a millisecond for each hierarchy, and nobody waits for it here. */
	pr_sleep_placeholder_joins(monitor);
	pr_operation_go_on(monitor, PR_TO_DEPART, PR_CHECKPOINTING, PR_CRIU_TIMEOUT_MS);
	/* First every task's death is certain, then CRIU's, which gets no chance to take a socket
	 * out of repair: its channel stays open until it is gone, and nobody answers. */
	pr_cgroups_each(&monitor->container, kill_task, &monitor->placeholder.pid);
	if (monitor->criu > 0)
		kill(monitor->criu, SIGKILL);
	return PR_OK;
}

void pr_hold_advance(struct pr_monitor *monitor)
{
	struct pr_operation *operation = &monitor->operation;
	if (monitor->criu > 0)
		return;
	if (!operation->event.done_ns) {
		operation->event.done_ns = pr_now_ns();
		/* A frozen task of cgroup v1 takes its SIGKILL as it thaws, and nothing before. */
		pr_cgroups_kill_but(&monitor->container, &monitor->placeholder.pid, 1);
	}
	/* A verb that began while the container was held may still write runc's state. */
	if (!operation->init_exited || pr_serve_leases(monitor) > 0)
		return;
	pr_sleep_absent(monitor);
	if (monitor->images[0] && pr_remove_tree(monitor->images) < 0)
		pr_monitor_log(monitor, "images are not removed");
	monitor->images[0] = '\0';
	operation->message[0] = '\0';
	pr_operation_finish(monitor, PR_DEPARTED, PR_OK);
}
