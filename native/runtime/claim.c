/* SPDX-License-Identifier: Apache-2.0 */
/* Owns a created container that waits for another's arrival: claimed, staged, and what they come to.
 *
 * Its init is runc's, waiting at the exec fifo; it is thrown away once the arrival runs, or started
 * after all. The arrival is restored beside it, into the same cgroup, and waits in CRIU's restorer:
 * nothing of it has run before GO. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "monitor.h"

#define DROP_MS  5000
#define START_MS 2000

bool pr_claim_changing(const struct pr_monitor *monitor)
{
	enum pr_goal goal = monitor->operation.goal;
	return monitor->state == PR_WAKING &&
	       (goal == PR_TO_STAGE || goal == PR_TO_GO || goal == PR_TO_DROP);
}

bool pr_claim_announced(const struct pr_monitor *monitor)
{
	char path[PR_PATH_BYTES];
	size_t root = strlen(PR_STATE_ROOT);
	if (strncmp(monitor->directory, PR_STATE_ROOT, root) != 0 ||
	    pr_format(path, sizeof path, "%s%s", PR_CLAIM_ROOT, monitor->directory + root))
		return false;
	return unlink(path) == 0;
}

int32_t pr_claim_begin(struct pr_monitor *monitor, const char **why)
{
	if (monitor->state == PR_CLAIMED)
		return PR_OK;
	*why = "the container has been started";
	if (monitor->state != PR_FRESH)
		return PR_WRONG_STATE;
	*why = "the placeholder cannot be started";
	if (pr_sleep_start_placeholder(monitor, -1) < 0)
		return PR_INTERNAL;
	pr_sleep_placeholder_joins(monitor);
	if (!monitor->placeholder.joined) {
		pr_sleep_drop_placeholder(monitor);
		return PR_INTERNAL;
	}
	pr_operation_start(monitor, PR_TO_STAGE, PR_BY_CLIENT, 0);
	pr_operation_at_once(monitor, PR_CLAIMED, PR_OK, "");
	return PR_OK;
}

static void end_prepared(struct pr_monitor *monitor)
{
	if (!monitor->prepared)
		return;
	monitor->prepared = false;
	kill(monitor->criu, SIGKILL);
	close(monitor->operation.rpc);
	monitor->operation.rpc = -1;
}

/* What `runc start` does (runc: libcontainer/container_linux.go, exec): its init waits until
 * somebody reads the byte that it writes into the fifo. */
static bool start_init(struct pr_monitor *monitor)
{
	char byte;
	int fd = open(monitor->exec_fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return false;
	struct pollfd ready = {.fd = fd, .events = POLLIN};
	bool done = poll(&ready, 1, START_MS) == 1 && read(fd, &byte, 1) == 1;
	close(fd);
	unlink(monitor->exec_fifo);
	return done;
}

int32_t pr_claim_undo(struct pr_monitor *monitor, const char **why)
{
	if (monitor->state == PR_FRESH)
		return PR_OK;
	*why = "the container is not claimed";
	if (monitor->state != PR_CLAIMED)
		return PR_WRONG_STATE;
	end_prepared(monitor);
	pr_sleep_drop_placeholder(monitor);
	pr_wake_disarm(monitor);
	if (!monitor->started) {
		pr_operation_at_once(monitor, PR_FRESH, PR_OK, "");
		return PR_OK;
	}
	if (!start_init(monitor))
		pr_monitor_end_all(monitor, 128 + SIGKILL);
	pr_operation_at_once(monitor, PR_RUNNING, PR_OK, "");
	return PR_OK;
}

int32_t pr_claim_prepare(struct pr_monitor *monitor, const char **why)
{
	*why = "the container is not claimed";
	if (monitor->state != PR_CLAIMED)
		return PR_WRONG_STATE;
	if (monitor->prepared)
		return PR_OK;
	*why = "nobody has said how to restore (not armed)";
	if (!monitor->armed.packet.at)
		return PR_WRONG_STATE;
	*why = "the last CRIU has not ended";
	if (monitor->criu > 0)
		return PR_BUSY;
	*why = "CRIU cannot be started";
	if (pr_wake_start_criu(monitor) < 0)
		return PR_INTERNAL;
	monitor->prepared = true;
	return PR_OK;
}

void pr_claim_staged(struct pr_monitor *monitor, pid_t made)
{
	monitor->operation.made = made;
	pr_operation_pause(monitor, PR_STAGED);
}

int32_t pr_claim_go(struct pr_monitor *monitor, const char **why)
{
	*why = "the container is not staged";
	if (monitor->state != PR_STAGED)
		return PR_WRONG_STATE;
	pr_operation_go_on(monitor, PR_TO_GO, PR_WAKING, PR_CRIU_TIMEOUT_MS);
	pr_operation_tell(monitor, true);
	return PR_OK;
}

int32_t pr_claim_drop(struct pr_monitor *monitor, const char **why)
{
	if (monitor->state == PR_CLAIMED)
		return PR_OK;
	*why = "the container is not claimed, or has been told to go";
	if (monitor->state == PR_WAKING && monitor->operation.goal == PR_TO_STAGE) {
		pr_operation_abort(monitor, "the restore is given up");
		return PR_OK;
	}
	if (monitor->state != PR_STAGED)
		return PR_WRONG_STATE;
	pr_operation_go_on(monitor, PR_TO_DROP, PR_WAKING, DROP_MS);
	/* CRIU ends what it has made and takes its own scaffold down; killed, it would leave that. */
	monitor->operation.refused = true;
	pr_operation_tell(monitor, false);
	return PR_OK;
}

void pr_claim_criu_ended(struct pr_monitor *monitor)
{
	if (monitor->state == PR_STAGED) {
		pr_operation_go_on(monitor, PR_TO_STAGE, PR_WAKING, DROP_MS);
		pr_operation_fail(monitor, "CRIU ended while it held the restored container");
		return;
	}
	if (monitor->prepared) {
		pr_monitor_log(monitor, "CRIU ended before it had its request");
		monitor->prepared = false;
		close(monitor->operation.rpc);
		monitor->operation.rpc = -1;
	}
}

void pr_claim_give_up(struct pr_monitor *monitor)
{
	bool dropped = monitor->operation.goal == PR_TO_DROP;
	pid_t spared[] = {monitor->placeholder.pid, monitor->init, getpid()};
	if (monitor->pager.pid > 0)
		kill(monitor->pager.pid, SIGKILL);
	/* Its sockets and mounts must be gone before it is tried again. */
	if (pr_cgroups_kill_but(&monitor->container, spared, 3) < 0)
		pr_monitor_end_all(monitor, 128 + SIGKILL);
	if (monitor->init <= 0) /* the throw-away init has ended meanwhile */
		pr_monitor_end_all(monitor, 128 + SIGKILL);
	monitor->armed.fired = false;
	if (dropped)
		monitor->operation.message[0] = '\0';
	pr_operation_finish(monitor, PR_CLAIMED, dropped ? PR_OK : PR_CRIU_FAILED);
}
