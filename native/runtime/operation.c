/* SPDX-License-Identifier: Apache-2.0 */
/* Owns one conversation with CRIU: request, notifications, answer, time limit. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "criu_rpc.h"
#include "monitor.h"
#include "sock.h"

void pr_operation_start(struct pr_monitor *monitor, enum pr_goal goal, uint32_t cause,
			int timeout_ms)
{
	uint64_t now = pr_now_ns();
	/* The channel of a CRIU that was started ahead is kept. */
	int rpc = monitor->prepared ? monitor->operation.rpc : -1;
	monitor->operation = (struct pr_operation){.goal = goal, .rpc = rpc};
	monitor->operation.deadline_ns = now + (uint64_t)timeout_ms * 1000000u;
	monitor->operation.event.begun_ns = now;
	monitor->operation.event.cause = cause;
	monitor->operation.event.from = monitor->state;
}

void pr_operation_go_on(struct pr_monitor *monitor, enum pr_goal goal, enum pr_state state,
			int timeout_ms)
{
	struct pr_operation *operation = &monitor->operation;
	uint64_t now = pr_now_ns();
	operation->goal = goal;
	operation->deadline_ns = now + (uint64_t)timeout_ms * 1000000u;
	operation->event = (struct pr_event_item){
		.from = monitor->state, .cause = PR_BY_CLIENT, .begun_ns = now, .criu_ns = now};
	operation->message[0] = '\0';
	pr_monitor_enter(monitor, state);
}

static void close_channel(struct pr_operation *operation)
{
	if (operation->rpc >= 0)
		close(operation->rpc);
	operation->rpc = -1;
}

static void tell_all(struct pr_monitor *monitor, enum pr_state state, int32_t status)
{
	struct pr_operation *operation = &monitor->operation;
	operation->event.release_ns = pr_now_ns();
	operation->event.to = state;
	operation->event.status = status;
	pr_monitor_enter(monitor, state);
	operation->event.sequence = monitor->sequence;
	if (status)
		pr_monitor_log(monitor, "%s", operation->message);
	pr_serve_event(monitor, &operation->event, operation->message);
	pr_serve_settled(monitor, status, operation->message);
}

void pr_operation_pause(struct pr_monitor *monitor, enum pr_state state)
{
	monitor->operation.event.done_ns = pr_now_ns();
	tell_all(monitor, state, PR_OK);
}

void pr_operation_at_once(struct pr_monitor *monitor, enum pr_state state, int32_t status,
			  const char *text)
{
	struct pr_operation *operation = &monitor->operation;
	uint64_t now = pr_now_ns();
	operation->event = (struct pr_event_item){
		.from = monitor->state, .cause = PR_BY_CLIENT, .begun_ns = now, .done_ns = now};
	snprintf(operation->message, sizeof operation->message, "%s", text);
	tell_all(monitor, state, status);
}

void pr_operation_tell(struct pr_monitor *monitor, bool go_on)
{
	const uint8_t *answer = go_on ? pr_criu_go_on : pr_criu_refuse;
	if (pr_sock_send(monitor->operation.rpc, answer, sizeof pr_criu_go_on, NULL, 0) < 0)
		pr_operation_abort(monitor, "it does not take an answer");
}

int pr_operation_channel(struct pr_monitor *monitor)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	monitor->operation.rpc = pair[0];
	return pair[1];
}

int pr_operation_send(struct pr_monitor *monitor, const struct pr_view *request)
{
	monitor->operation.event.criu_ns = pr_now_ns();
	return pr_sock_send(monitor->operation.rpc, request->at, request->bytes, NULL, 0);
}

void pr_operation_fail(struct pr_monitor *monitor, const char *format, ...)
{
	struct pr_operation *operation = &monitor->operation;
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(operation->message, sizeof operation->message, format, arguments);
	va_end(arguments);
	close_channel(operation);
	operation->answered = true;
	operation->success = false;
}

void pr_operation_abort(struct pr_monitor *monitor, const char *why)
{
	if (monitor->operation.answered)
		return;
	if (monitor->criu > 0)
		kill(monitor->criu, SIGKILL);
	monitor->operation.failed_early = true;
	pr_operation_fail(monitor, "CRIU was ended: %s", why);
}

static void on_notification(struct pr_monitor *monitor, const struct pr_criu_answer *answer)
{
	struct pr_operation *operation = &monitor->operation;
	bool dumped = !strcmp(answer->script, "post-dump");
	bool restored = !strcmp(answer->script, "post-restore");
	if (operation->refused) {
		/* After a lazy dump CRIU would serve pages, for ever; it tells first, and this ends it. */
		pr_operation_tell(monitor, false);
		return;
	}
	if (dumped && operation->goal == PR_TO_HOLD) {
		pr_hold_reached(monitor);
		return;
	}
	if (restored && operation->goal == PR_TO_STAGE) {
		pr_claim_staged(monitor, answer->pid);
		return;
	}
	/* The placeholder joins before CRIU kills the tasks: the cgroup is never empty. */
	if (dumped && operation->goal == PR_TO_SLEEP)
		pr_sleep_placeholder_joins(monitor);
	pr_operation_tell(monitor, true);
}

static void on_answer(struct pr_monitor *monitor, const struct pr_criu_answer *answer)
{
	struct pr_operation *operation = &monitor->operation;
	operation->event.done_ns = pr_now_ns();
	if (!answer->success) {
		pr_operation_fail(monitor, "CRIU: %s (errno %d)",
				  answer->message[0] ? answer->message : "no reason given",
				  answer->error);
		return;
	}
	if (monitor->state == PR_WAKING && answer->pid <= 0) {
		pr_operation_fail(monitor, "CRIU has restored, and names no process");
		return;
	}
	operation->success = operation->answered = true;
	if (monitor->state == PR_WAKING) {
		operation->restored = true;
		operation->made = 0;
		monitor->init = answer->pid;
	}
	close_channel(operation);
}

void pr_operation_readable(struct pr_monitor *monitor)
{
	uint8_t packet[PR_CRIU_PACKET_BYTES];
	struct pr_criu_answer answer;
	int fds[PR_FDS_MAX], count;
	ssize_t bytes = pr_sock_receive(monitor->operation.rpc, packet, sizeof packet, fds,
					PR_FDS_MAX, &count);
	pr_close_all(fds, count);
	if (bytes <= 0 && monitor->state == PR_CHECKPOINTING && monitor->criu > 0) {
		close_channel(
			&monitor->operation); /* its end says more, and is waited for anyway */
		return;
	}
	if (bytes <= 0) {
		monitor->operation.failed_early = true;
		pr_operation_fail(monitor, "CRIU ended without an answer");
		return;
	}
	if (!pr_criu_parse(packet, (size_t)bytes, &answer)) {
		pr_operation_abort(monitor, "its answer is not understood");
		return;
	}
	if (answer.type == PR_CRIU_NOTIFY)
		on_notification(monitor, &answer);
	else
		on_answer(monitor, &answer);
}

/* The end of the channel may not come: tasks that CRIU was about to restore hold it too. */
void pr_operation_criu_ended(struct pr_monitor *monitor, int status)
{
	struct pr_operation *operation = &monitor->operation;
	monitor->criu = 0;
	pr_wake_breakpoints_done(monitor);
	while ((monitor->state == PR_CHECKPOINTING || monitor->state == PR_WAKING) &&
	       !operation->answered) {
		struct pollfd ready = {.fd = operation->rpc, .events = POLLIN};
		if (operation->rpc >= 0 && poll(&ready, 1, 0) == 1) {
			pr_operation_readable(monitor);
			continue;
		}
		operation->failed_early = true;
		pr_operation_fail(monitor, status == PR_NOT_EXECUTED
						   ? "CRIU cannot be executed"
						   : "CRIU ended without an answer");
	}
	if (monitor->state == PR_HELD) {
		/* Its tasks stand still all the same: that is what their cgroup is frozen for. */
		pr_monitor_log(monitor, "CRIU ended while it held the container");
		close_channel(operation);
	}
	if (monitor->state == PR_CLAIMED || monitor->state == PR_STAGED)
		pr_claim_criu_ended(monitor);
	if (monitor->state == PR_ASLEEP || monitor->state == PR_RUNNING)
		pr_wake_criu_ended(monitor);
}

void pr_operation_finish(struct pr_monitor *monitor, enum pr_state state, int32_t status)
{
	struct pr_operation *operation = &monitor->operation;
	close_channel(operation);
	pr_cgroups_restore_cpu(monitor->cpu_note);
	tell_all(monitor, state, status);
}
