/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the way from running to asleep, and its undo. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "criu_rpc.h"
#include "monitor.h"
#include "proc.h"
#include "runc_state.h"

#define END_LIMIT_NS 2000000000u

struct descent {
	pid_t init;
	pid_t foreign;
};

static bool check_descent(pid_t pid, void *context)
{
	struct descent *descent = context;
	if (pr_proc_descends(pid, descent->init))
		return true;
	struct pr_proc proc;
	if (pr_proc_read(pid, &proc) < 0 || proc.state == 'Z')
		return true; /* it has just ended */
	if (proc.parent == getpid())
		return true; /* the placeholder of a sleep that failed, on its way out */
	descent->foreign = pid;
	return false;
}

/* What forbids a sleep, seen from here; the service's preflight sees more. */
static const char *obstacle(struct pr_monitor *monitor, uint32_t flags, int32_t *status)
{
	struct pr_runc_state known;
	*status = PR_WRONG_STATE;
	if (monitor->state != PR_RUNNING)
		return "the container is not running";
	if (access(monitor->exec_fifo, F_OK) == 0)
		return "the container has not been started";
	*status = PR_BUSY;
	if (monitor->criu > 0 && !monitor->prepared)
		return "the last CRIU has not ended";
	if (pr_serve_leases(monitor) > 0)
		return "a verb of the container runtime is under way";
	if (monitor->pager.pid > 0)
		return "the pager still fills the last wake's memory";
	*status = PR_REFUSED;
	if (monitor->orphaned)
		return "containerd's shim is gone";
	if (flags & PR_FLAG_LEAVE_RUNNING)
		return NULL;
	if (monitor->terminal)
		return "the container has a terminal";
	int failed = pr_runc_state_read(monitor->runc_state, &known);
	pr_cgroups_free(&known.groups);
	if (failed || known.init != monitor->init || known.start != monitor->init_start)
		return "runc's state does not name the process that we know";
	struct descent descent = {monitor->init, 0};
	if (!pr_cgroups_each(&monitor->container, check_descent, &descent)) {
		pr_monitor_log(monitor, "process %d does not descend from init",
			       (int)descent.foreign);
		return "a process of an exec session runs in the container";
	}
	return NULL;
}

int pr_sleep_start_placeholder(struct pr_monitor *monitor, int kept)
{
	char path[48];
	int namespace = -1;
	if (monitor->init > 0 && pr_proc_other_namespace(monitor->init, getpid(), "cgroup") &&
	    !pr_format(path, sizeof path, "/proc/%d/ns/cgroup", (int)monitor->init))
	namespace = open(path, O_RDONLY | O_CLOEXEC);
	int failed = pr_placeholder_start(&monitor->placeholder, namespace,
					  !monitor->no_new_keyring, kept);
	if (namespace >= 0)
		close(namespace);
	return failed;
}

void pr_sleep_placeholder_joins(struct pr_monitor *monitor)
{
	struct pr_placeholder *placeholder = &monitor->placeholder;
	if (!placeholder->joined)
		placeholder->joined = !pr_cgroups_join(&monitor->container, placeholder->pid);
}

/* Joining takes a millisecond for each hierarchy of version 1, so it is done while the tasks still
 * run. In a cgroup that is frozen already it would be taken for one of the tasks. */
static void join_early(struct pr_monitor *monitor)
{
	if (!pr_cgroups_frozen(&monitor->container))
		pr_sleep_placeholder_joins(monitor);
}

void pr_sleep_drop_placeholder(struct pr_monitor *monitor)
{
	if (monitor->placeholder.pid > 0) {
		kill(monitor->placeholder.pid, SIGKILL);
		close(monitor->placeholder.socket);
	}
	monitor->placeholder = (struct pr_placeholder){.socket = -1};
}

static int start_criu(struct pr_monitor *monitor, const int *fds, int count, const int *enter,
		      int entered, const struct pr_view *environment)
{
	char program[256];
	char *argv[] = {(char[]){"criu"}, (char[]){"swrk"}, (char[]){"3"}, NULL};
	if (monitor->settings.criu[0])
		strcpy(program, monitor->settings.criu);
	else if (!pr_find_program("criu", program, sizeof program))
		return -ENOENT;
	int channel = pr_operation_channel(monitor);
	if (channel < 0)
		return channel;
	struct pr_spawn spawn = {.program = program,
				 .argv = argv,
				 .log = monitor->log,
				 .special = channel,
				 .given = fds,
				 .given_count = count,
				 .enter = enter,
				 .enter_count = entered,
				 .environment = (const char *)environment->at,
				 .environment_bytes = environment->bytes};
	memcpy(spawn.stdio, monitor->stdio, sizeof spawn.stdio);
	pid_t pid = pr_spawn_child(&spawn);
	close(channel);
	if (pid < 0)
		return pid;
	monitor->criu = pid;
	return 0;
}

static int pick_fds(const uint8_t *packet, size_t bytes, uint16_t type, const int *fds, int count,
		    int *picked, int room)
{
	struct pr_view item;
	if (!pr_wire_find(packet, bytes, type, &item))
		return 0;
	int amount = (int)(item.bytes / 4);
	if (item.bytes % 4 || amount > room)
		return -1;
	for (int i = 0; i < amount; i++) {
		uint32_t index;
		memcpy(&index, item.at + 4 * i, sizeof index);
		if (index >= (uint32_t)count)
			return -1;
		picked[i] = fds[index];
	}
	return amount;
}

static bool note_images(struct pr_monitor *monitor, const uint8_t *packet, size_t bytes)
{
	struct pr_view item;
	char link[PR_PATH_BYTES];
	if (!pr_wire_find(packet, bytes, PR_ITEM_IMAGES, &item))
		return true;
	if (!pr_wire_text(&item, monitor->images, sizeof monitor->images))
		return false;
	if (monitor->images[0] != '/' || strstr(monitor->images, "/../") || !monitor->images[1])
		return monitor->images[0] = '\0', false;
	/* For the front, should this process not be there to remove them. */
	if (pr_format(link, sizeof link, "%s/images", monitor->directory))
		return false;
	unlink(link);
	return symlink(monitor->images, link) == 0;
}

int32_t pr_sleep_prepare(struct pr_monitor *monitor, const uint8_t *packet, size_t bytes,
			 const int *fds, int count, const char **why)
{
	int picked[PR_FDS_MAX], enter[PR_ENTER_MAX];
	struct pr_view environment = {0};
	if (monitor->prepared)
		return PR_OK;
	*why = "the last CRIU has not ended";
	if (monitor->criu > 0)
		return PR_BUSY;
	*why = "the request is not complete";
	int given = pick_fds(packet, bytes, PR_ITEM_CRIU_FDS, fds, count, picked, PR_CRIU_FDS_MAX);
	int entered =
		pick_fds(packet, bytes, PR_ITEM_CRIU_NAMESPACES, fds, count, enter, PR_ENTER_MAX);
	if (given < 0 || entered < 0)
		return PR_BAD_REQUEST;
	if (pr_wire_find(packet, bytes, PR_ITEM_CRIU_ENVIRONMENT, &environment) &&
	    (!environment.bytes || environment.at[environment.bytes - 1]))
		return PR_BAD_REQUEST;
	*why = "CRIU cannot be executed";
	if (start_criu(monitor, picked, given, enter, entered, &environment) < 0)
		return PR_CRIU_FAILED;
	monitor->prepared = true;
	return PR_OK;
}

int32_t pr_sleep_begin(struct pr_monitor *monitor, uint32_t flags, const uint8_t *packet,
		       size_t bytes, const int *fds, int count, const char **why)
{
	struct pr_view request, item;
	int32_t status;
	int picked[PR_FDS_MAX], enter[PR_ENTER_MAX];
	uint32_t timeout_ms = PR_CRIU_TIMEOUT_MS;
	*why = obstacle(monitor, flags, &status);
	if (*why)
		return status;
	*why = "the request is not complete";
	int given = pick_fds(packet, bytes, PR_ITEM_CRIU_FDS, fds, count, picked, PR_CRIU_FDS_MAX);
	int entered =
		pick_fds(packet, bytes, PR_ITEM_CRIU_NAMESPACES, fds, count, enter, PR_ENTER_MAX);
	if (given < 0 || entered < 0 || !pr_wire_find(packet, bytes, PR_ITEM_REQUEST, &request))
		return PR_BAD_REQUEST;
	uint64_t type = pr_criu_request_type(request.at, request.bytes);
	bool leave = flags & PR_FLAG_LEAVE_RUNNING;
	if (type != PR_CRIU_DUMP && !(leave && type == PR_CRIU_PRE_DUMP))
		return PR_BAD_REQUEST;
	if (pr_wire_find(packet, bytes, PR_ITEM_TIMEOUT_MS, &item) && item.bytes == 4)
		memcpy(&timeout_ms, item.at, 4);
	if (timeout_ms > 3600000 || (!leave && !note_images(monitor, packet, bytes)))
		return PR_BAD_REQUEST;

	bool hold = flags & PR_FLAG_HOLD;
	enum pr_goal goal = leave ? PR_TO_RUN_ON : hold ? PR_TO_HOLD : PR_TO_SLEEP;
	if (monitor->prepared && !hold)
		pr_wake_disarm(monitor); /* it was started for a move */
	pr_operation_start(monitor, goal, PR_BY_CLIENT, (int)timeout_ms);
	*why = "CRIU or the placeholder cannot be started";
	pr_cgroups_lift_cpu(&monitor->container, monitor->cpu_note);
	int failed = monitor->prepared ? 0
				       : start_criu(monitor, picked, given, enter, entered,
						    &(struct pr_view){0});
	monitor->prepared = false;
	/* The placeholder is the younger one and keeps CRIU's channel open: should this process be
	 * killed, CRIU has its own death signal before it could see the end of the channel, which
	 * it would take for the order to let the tasks and their sockets go. */
	if (!failed && !leave)
		failed = pr_sleep_start_placeholder(monitor, hold ? monitor->operation.rpc : -1);
	if (failed) {
		pr_monitor_log(monitor, "criu or placeholder: errno %d", -failed);
		pr_operation_abort(monitor, "the dump cannot begin");
		pr_cgroups_restore_cpu(monitor->cpu_note);
		if (failed != -ENOENT)
			return PR_INTERNAL;
		*why = "CRIU cannot be executed";
		return PR_CRIU_FAILED;
	}
	if (!leave)
		join_early(monitor);
	pr_monitor_enter(monitor, PR_CHECKPOINTING);
	/* One that has ended already says more by how it has than by not taking this. */
	if (pr_operation_send(monitor, &request) < 0)
		monitor->operation.deadline_ns = pr_now_ns() + END_LIMIT_NS;
	return PR_OK;
}

static bool clear_repair(pid_t pid, void *context)
{
	*(int *)context += pr_proc_clear_repair(pid);
	return true;
}

/* A CRIU that was killed leaves sockets in repair mode. It has let go of its tasks already, so
 * they are stopped by the freezer while that is mended. */
static void undo(struct pr_monitor *monitor)
{
	int cleared = 0;
	pr_sleep_drop_placeholder(monitor);
	if (monitor->operation.failed_early || monitor->operation.goal == PR_TO_RESUME) {
		pr_cgroups_freeze(&monitor->container);
		pr_cgroups_each(&monitor->container, clear_repair, &cleared);
		if (cleared)
			pr_monitor_log(monitor, "%d sockets taken out of repair mode", cleared);
	}
	pr_cgroups_thaw(&monitor->container);
}

void pr_sleep_absent(struct pr_monitor *monitor)
{
	struct pr_proc proc = {0};
	if (monitor->placeholder.pid <= 0 && pr_sleep_start_placeholder(monitor, -1) < 0)
		pr_wake_lost(monitor, "it cannot have a placeholder");
	pid_t pid = monitor->placeholder.pid;
	pr_sleep_placeholder_joins(monitor);
	pr_cgroups_thaw(&monitor->container);
	pr_proc_read(pid, &proc);
	struct pr_new_init init = {.pid = pid, .start = proc.start};
	int failed = pr_runc_state_rewrite(monitor->runc_state, monitor->known_to_runc, &init);
	if (failed)
		pr_monitor_log(monitor, "runc's state cannot be written: errno %d", -failed);
	else
		monitor->known_to_runc = pid;
	if (monitor->init_pidfd >= 0)
		close(monitor->init_pidfd);
	monitor->init_pidfd = -1;
	monitor->init = 0;
	monitor->init_start = 0;
}

void pr_sleep_advance(struct pr_monitor *monitor)
{
	struct pr_operation *operation = &monitor->operation;
	if (operation->goal == PR_TO_DEPART) {
		pr_hold_advance(monitor);
		return;
	}
	if (!operation->answered)
		return;
	bool gone = operation->goal == PR_TO_SLEEP || operation->goal == PR_TO_HOLD;
	if (operation->success && gone) {
		if (!operation->init_exited)
			return; /* CRIU has killed it, its memory is still being given back */
		pr_sleep_absent(monitor);
		monitor->sleeps++;
		pr_operation_finish(monitor, PR_ASLEEP, PR_OK);
		return;
	}
	/* A CRIU that was told to end must have let go of the tasks before they are touched. */
	if (monitor->criu > 0)
		return;
	bool success = operation->success || operation->goal == PR_TO_RESUME;
	if (operation->goal == PR_TO_RUN_ON && success)
		pr_cgroups_thaw(&monitor->container);
	else
		undo(monitor);
	if (success)
		operation->message[0] = '\0';
	pr_operation_finish(monitor, PR_RUNNING, success ? PR_OK : PR_CRIU_FAILED);
	if (operation->init_exited) {
		int status = operation->init_status;
		pr_monitor_end(monitor, status);
	}
}

void pr_sleep_placeholder_died(struct pr_monitor *monitor)
{
	pid_t died = monitor->placeholder.pid;
	if (monitor->placeholder.socket >= 0)
		close(monitor->placeholder.socket);
	monitor->placeholder = (struct pr_placeholder){.socket = -1};
	if (monitor->state == PR_FRESH || monitor->state == PR_RUNNING ||
	    monitor->state == PR_CHECKPOINTING)
		return;
	pr_monitor_log(monitor, "the placeholder was killed; another takes its place");
	int kept = monitor->state == PR_HELD ? monitor->operation.rpc : -1;
	if (pr_sleep_start_placeholder(monitor, kept) < 0)
		return;
	pr_sleep_placeholder_joins(monitor);
	if (monitor->known_to_runc != died)
		return; /* the init is there, and stands for itself */
	struct pr_proc proc = {0};
	pr_proc_read(monitor->placeholder.pid, &proc);
	struct pr_new_init init = {.pid = monitor->placeholder.pid, .start = proc.start};
	if (!pr_runc_state_rewrite(monitor->runc_state, monitor->known_to_runc, &init))
		monitor->known_to_runc = monitor->placeholder.pid;
}
