/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the way from asleep to running: armed once, then without the service's help. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "breakpoint.h"
#include "criu_rpc.h"
#include "monitor.h"
#include "proc.h"
#include "release.h"
#include "runc_state.h"
#include "sock.h"

static bool find(const struct pr_armed *armed, uint16_t type, struct pr_view *item)
{
	return armed->packet.at &&
	       pr_wire_find((const uint8_t *)armed->packet.at, armed->packet.bytes, type, item);
}

/* The descriptors that an item's indexes mean; -1 if one of them means none. */
static int resolve(const struct pr_view *item, const int *fds, int count, int *out, int room)
{
	int amount = (int)(item->bytes / 4);
	if (item->bytes % 4 || amount > room)
		return -1;
	for (int i = 0; i < amount; i++) {
		uint32_t index;
		memcpy(&index, item->at + 4 * i, sizeof index);
		if (index >= (uint32_t)count)
			return -1;
		out[i] = fds[index];
	}
	return amount;
}

static int resolve_armed(const struct pr_armed *armed, uint16_t type, int *out, int room)
{
	struct pr_view item;
	if (!find(armed, type, &item))
		return 0;
	return resolve(&item, armed->fds, armed->count, out, room);
}

static bool well_formed(const uint8_t *packet, size_t bytes, const int *fds, int count)
{
	struct pr_view item;
	size_t offset = 0;
	int out[PR_FDS_MAX];
	if (!pr_wire_find(packet, bytes, PR_ITEM_REQUEST, &item))
		return false;
	if (pr_criu_request_type(item.at, item.bytes) != PR_CRIU_RESTORE)
		return false;
	while (pr_wire_item(packet, bytes, &offset, &item)) {
		switch (item.type) {
		case PR_ITEM_TRIGGERS:
			if (resolve(&item, fds, count, out, PR_TRIGGERS) < 0)
				return false;
			break;
		case PR_ITEM_CRIU_FDS:
		case PR_ITEM_PAGER_FDS:
			if (resolve(&item, fds, count, out, PR_CRIU_FDS_MAX) < 0)
				return false;
			break;
		case PR_ITEM_CRIU_NAMESPACES:
			if (resolve(&item, fds, count, out, PR_ENTER_MAX) < 0)
				return false;
			break;
		case PR_ITEM_MAP:
		case PR_ITEM_NETLINK:
		case PR_ITEM_WRITE:
			if (pr_release_check(&item, count) < 0)
				return false;
			break;
		case PR_ITEM_PAGER_ARGV:
			if (!item.bytes || item.at[0] != '/' || item.at[item.bytes - 1])
				return false;
			break;
		default:
			break;
		}
	}
	return true;
}

int32_t pr_wake_arm(struct pr_monitor *monitor, uint32_t flags, const uint8_t *packet, size_t bytes,
		    const int *fds, int count, const char **why)
{
	*why = "the container neither runs, nor sleeps, nor is claimed";
	if (monitor->state > PR_ASLEEP && monitor->state != PR_CLAIMED)
		return PR_WRONG_STATE;
	*why = "the request is not complete";
	if (!well_formed(packet, bytes, fds, count))
		return PR_BAD_REQUEST;
	char *copy =
		mmap(NULL, bytes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (copy == MAP_FAILED)
		return PR_INTERNAL;
	memcpy(copy, packet, bytes);
	pr_wake_disarm(monitor);
	monitor->remove_images = flags & PR_FLAG_REMOVE_IMAGES;
	monitor->armed.packet = (struct pr_blob){copy, bytes};
	for (int i = 0; i < count; i++)
		monitor->armed.fds[i] = fds[i];
	monitor->armed.count = count;
	return PR_OK;
}

/* What was started for a wake that will be another one, or none. */
static void drop_prepared(struct pr_monitor *monitor)
{
	monitor->ready_wanted = false;
	if (monitor->state != PR_ASLEEP && monitor->state != PR_RUNNING)
		return; /* of a claimed container it may wait for the next word */
	if (monitor->prepared) {
		kill(monitor->criu, SIGKILL);
		while (waitpid(monitor->criu, NULL, 0) < 0 && errno == EINTR)
			continue;
		monitor->criu = 0;
		pr_wake_breakpoints_done(monitor);
		pr_wake_criu_ended(monitor);
	}
	if (monitor->pager.early) {
		kill(monitor->pager.pid, SIGKILL);
		pr_pager_let_go(&monitor->pager);
	}
}

void pr_wake_disarm(struct pr_monitor *monitor)
{
	drop_prepared(monitor);
	pr_close_all(monitor->armed.fds, monitor->armed.count);
	pr_blob_free(&monitor->armed.packet);
	monitor->armed = (struct pr_armed){0};
}

int pr_wake_triggers(const struct pr_monitor *monitor, int *fds)
{
	if (monitor->state != PR_ASLEEP || monitor->armed.fired)
		return 0;
	return resolve_armed(&monitor->armed, PR_ITEM_TRIGGERS, fds, PR_TRIGGERS);
}

static int start_pager(struct pr_monitor *monitor)
{
	struct pr_view item;
	int given[PR_FDS_MAX];
	if (!find(&monitor->armed, PR_ITEM_PAGER_ARGV, &item))
		return 0;
	int count = resolve_armed(&monitor->armed, PR_ITEM_PAGER_FDS, given, PR_FDS_MAX);
	return pr_pager_start(monitor, &item, given, count);
}

int pr_wake_start_criu(struct pr_monitor *monitor)
{
	char program[256];
	int given[PR_FDS_MAX];
	if (monitor->settings.criu[0])
		strcpy(program, monitor->settings.criu);
	else if (!pr_find_program("criu", program, sizeof program))
		return -ENOENT;
	int enter[PR_ENTER_MAX];
	int count = resolve_armed(&monitor->armed, PR_ITEM_CRIU_FDS, given, PR_FDS_MAX);
	int entered = resolve_armed(&monitor->armed, PR_ITEM_CRIU_NAMESPACES, enter, PR_ENTER_MAX);
	int channel = pr_operation_channel(monitor);
	if (channel < 0)
		return channel;
	struct pr_spawn spawn = {.program = program,
				 .log = monitor->log,
				 .special = channel,
				 .given = given,
				 .given_count = count,
				 .enter = enter,
				 .enter_count = entered};
	memcpy(spawn.stdio, monitor->stdio, sizeof spawn.stdio);
	pid_t pid = pr_placeholder_spawn(&monitor->placeholder, &spawn);
	close(channel);
	if (pid < 0)
		return pid;
	monitor->criu = pid;
	if (monitor->breakpoints < 0)
		monitor->breakpoints = pr_breakpoint_ready(); /* while CRIU starts */
	return 0;
}

void pr_wake_breakpoints_done(struct pr_monitor *monitor)
{
	if (monitor->breakpoints >= 0)
		close(monitor->breakpoints);
	monitor->breakpoints = -1;
}

void pr_wake_prepare(struct pr_monitor *monitor)
{
	monitor->ready_wanted = monitor->state == PR_ASLEEP;
	if (monitor->state != PR_ASLEEP || monitor->criu > 0 || monitor->pager.pid > 0)
		return;
	monitor->ready_wanted = false;
	if (start_pager(monitor) == 0)
		monitor->pager.early = monitor->pager.pid > 0;
	monitor->prepared = pr_wake_start_criu(monitor) == 0;
	if (!monitor->prepared)
		pr_monitor_log(monitor, "CRIU is not started ahead; the wake starts it");
}

void pr_wake_criu_ended(struct pr_monitor *monitor)
{
	if (monitor->prepared) {
		monitor->prepared = false; /* the wake starts another */
		close(monitor->operation.rpc);
		monitor->operation.rpc = -1;
	} else if (monitor->ready_wanted) {
		pr_wake_prepare(monitor);
	}
}

static int32_t begin(struct pr_monitor *monitor, enum pr_goal goal, uint32_t cause,
		     const char **why)
{
	struct pr_view request;
	*why = "nobody has said how to wake it (not armed)";
	if (!find(&monitor->armed, PR_ITEM_REQUEST, &request))
		return PR_WRONG_STATE;
	*why = "the last CRIU has not ended";
	if (monitor->criu > 0 && !monitor->prepared)
		return PR_BUSY;
	*why = "the last pager has not ended";
	if (monitor->pager.pid > 0 && !monitor->pager.early)
		return PR_BUSY;
	pr_operation_start(monitor, goal, cause, PR_CRIU_TIMEOUT_MS);
	pr_cgroups_thaw(&monitor->container);
	pr_cgroups_lift_cpu(&monitor->container, monitor->cpu_note);
	monitor->armed.fired = true;
	pr_monitor_enter(monitor, PR_WAKING);
	int failed = monitor->pager.early ? 0 : start_pager(monitor);
	if (!failed && !monitor->prepared)
		failed = pr_wake_start_criu(monitor);
	monitor->prepared = monitor->pager.early = false;
	/* With a pager the request waits until that listens; CRIU starts meanwhile. */
	if (!failed && (monitor->pager.pid <= 0 || monitor->pager.listening))
		failed = pr_operation_send(monitor, &request);
	if (failed) {
		monitor->operation.failed_early = true;
		if (monitor->criu > 0)
			kill(monitor->criu, SIGKILL);
		pr_operation_fail(monitor, "CRIU or the pager cannot be started (errno %d)",
				  -failed);
	}
	return PR_OK;
}

int32_t pr_wake_begin(struct pr_monitor *monitor, uint32_t cause, const char **why)
{
	*why = "the container is not asleep";
	if (monitor->state != PR_ASLEEP)
		return PR_WRONG_STATE;
	return begin(monitor, PR_TO_WAKE, cause, why);
}

int32_t pr_wake_stage(struct pr_monitor *monitor, const char **why)
{
	*why = "the container is not claimed";
	if (monitor->state != PR_CLAIMED)
		return PR_WRONG_STATE;
	return begin(monitor, PR_TO_STAGE, PR_BY_CLIENT, why);
}

void pr_wake_pager_listens(struct pr_monitor *monitor)
{
	struct pr_view request;
	bool asked = monitor->operation.event.criu_ns; /* by a pager before this one */
	if (monitor->state != PR_WAKING || monitor->operation.answered || asked)
		return;
	if (find(&monitor->armed, PR_ITEM_REQUEST, &request) &&
	    !pr_operation_send(monitor, &request))
		return;
	pr_operation_abort(monitor, "it does not take its request");
}

static void run_release(struct pr_monitor *monitor)
{
	struct pr_view item;
	const struct pr_armed *armed = &monitor->armed;
	const uint8_t *packet = (const uint8_t *)armed->packet.at;
	size_t offset = 0;
	while (pr_wire_item(packet, armed->packet.bytes, &offset, &item)) {
		if (item.type != PR_ITEM_MAP && item.type != PR_ITEM_NETLINK &&
		    item.type != PR_ITEM_WRITE)
			continue;
		int failed = pr_release_run(&item, armed->fds);
		if (failed)
			pr_monitor_log(monitor, "release action of type %d: errno %d",
				       (int)item.type, -failed);
	}
}

static int keep_state_true(struct pr_monitor *monitor)
{
	struct pr_new_init init = {
		.pid = monitor->init,
		.start = monitor->init_start,
		.own_namespaces = true,
		.time_namespace = pr_proc_other_namespace(monitor->init, getpid(), "time"),
	};
	unlink(monitor->exec_fifo);
	return pr_runc_state_rewrite(monitor->runc_state, monitor->known_to_runc, &init);
}

void pr_wake_lost(struct pr_monitor *monitor, const char *why)
{
	pr_monitor_log(monitor, "the container is killed: %s", why);
	pr_monitor_end_all(monitor, 128 + SIGKILL);
}

static void on_restored(struct pr_monitor *monitor)
{
	struct pr_proc proc;
	struct pr_operation *operation = &monitor->operation;
	operation->rewritten = true; /* once only */
	run_release(monitor);
	if (operation->init_exited)
		return;
	if (pr_monitor_set_init(monitor, monitor->init) < 0 ||
	    pr_proc_read(monitor->init, &proc) < 0 || proc.parent != getpid())
		pr_wake_lost(monitor, "the restored init is not a child of its monitor");
}

static void settle(struct pr_monitor *monitor)
{
	int failed = keep_state_true(monitor);
	if (failed)
		pr_wake_lost(monitor, "runc's state cannot be kept true");
	bool arrived = monitor->operation.goal == PR_TO_GO;
	if (arrived) {
		kill(monitor->known_to_runc, SIGKILL); /* the throw-away init */
		monitor->arrived = true;
	}
	monitor->known_to_runc = monitor->init;
	pr_sleep_drop_placeholder(monitor);
	monitor->wakes++;
	pr_wake_disarm(monitor);
	pr_operation_finish(monitor, PR_RUNNING, PR_OK);
	if (arrived)
		pr_cgroups_join(&monitor->own, getpid()); /* milliseconds; nobody waits for it */
	if (monitor->pager.pid <= 0)
		pr_wake_filled(monitor);
}

static bool kill_other(pid_t pid, void *context)
{
	pid_t spared = *(pid_t *)context;
	if (pid != spared)
		kill(pid, SIGKILL);
	return true;
}

/* Whatever CRIU has half made ends; the images are whole, so it may be tried again. */
static void give_up(struct pr_monitor *monitor)
{
	pr_cgroups_each(&monitor->container, kill_other, &monitor->placeholder.pid);
	if (monitor->pager.pid > 0)
		kill(monitor->pager.pid, SIGKILL);
	monitor->init = 0;
	pr_operation_finish(monitor, PR_ASLEEP, PR_CRIU_FAILED);
}

void pr_wake_advance(struct pr_monitor *monitor)
{
	struct pr_operation *operation = &monitor->operation;
	if (!operation->answered)
		return;
	if (!operation->success) {
		if (monitor->criu > 0)
			return;
		if (pr_claim_changing(monitor))
			pr_claim_give_up(monitor);
		else
			give_up(monitor);
		return;
	}
	if (!operation->rewritten)
		on_restored(monitor);
	if (operation->init_exited)
		pr_monitor_end(monitor, operation->init_status);
	/* A verb that began while the container slept may still write runc's state. */
	if (pr_serve_leases(monitor) == 0)
		settle(monitor);
}

void pr_wake_filled(struct pr_monitor *monitor)
{
	if (monitor->state != PR_RUNNING)
		return; /* CRIU may still read the images */
	pr_pager_let_go(&monitor->pager);
	if (!monitor->remove_images || !monitor->images[0])
		return;
	int failed = pr_remove_tree(monitor->images);
	if (failed)
		pr_monitor_log(monitor, "images are not removed: errno %d", -failed);
	monitor->images[0] = '\0';
}
