/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the control socket's connections: reads questions, answers them, tells events. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor.h"
#include "sock.h"

static void hang_up(struct pr_connection *connection)
{
	close(connection->fd);
	*connection = (struct pr_connection){.fd = -1};
}

void pr_serve_accept(struct pr_monitor *monitor)
{
	int fd = accept4(monitor->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	struct ucred peer;
	socklen_t size = sizeof peer;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid()) {
		for (int i = 0; i < PR_CONNECTIONS; i++) {
			if (monitor->connections[i].fd >= 0)
				continue;
			monitor->connections[i] = (struct pr_connection){.fd = fd};
			return;
		}
	}
	close(fd);
}

int pr_serve_leases(const struct pr_monitor *monitor)
{
	int count = 0;
	for (int i = 0; i < PR_CONNECTIONS; i++)
		count += monitor->connections[i].fd >= 0 && monitor->connections[i].lease;
	return count;
}

static void describe(const struct pr_monitor *monitor, struct pr_state_item *item)
{
	*item = (struct pr_state_item){
		.state = monitor->state,
		.monitor_pid = (uint32_t)getpid(),
		.init_pid = (uint32_t)monitor->init,
		.placeholder_pid = (uint32_t)monitor->placeholder.pid,
		.init_start = monitor->init_start,
		.since_ns = monitor->since_ns,
		.sleeps = monitor->sleeps,
		.wakes = monitor->wakes,
		.terminal = monitor->terminal,
		.armed = monitor->armed.packet.at != NULL,
		.leases = (uint32_t)pr_serve_leases(monitor),
		.pager_pid = (uint32_t)monitor->pager.pid,
		.sequence = monitor->sequence,
	};
}

void pr_serve_answer(struct pr_monitor *monitor, struct pr_connection *connection, uint16_t verb,
		     uint32_t tag, int32_t status, const char *text)
{
	uint8_t buffer[1024];
	struct pr_packet packet;
	struct pr_state_item state;
	describe(monitor, &state);
	pr_wire_start(&packet, buffer, sizeof buffer, verb, tag, status, 0);
	pr_wire_add(&packet, PR_ITEM_STATE, &state, sizeof state);
	if (text && *text)
		pr_wire_add(&packet, PR_ITEM_TEXT, text, strlen(text));
	/* Somebody who does not read his answers loses his connection, nobody waits for him. */
	if (pr_sock_send(connection->fd, buffer, packet.used, NULL, 0) < 0)
		hang_up(connection);
}

void pr_serve_event(struct pr_monitor *monitor, const struct pr_event_item *event, const char *text)
{
	uint8_t buffer[1024];
	struct pr_packet packet;
	struct pr_state_item state;
	describe(monitor, &state);
	pr_wire_start(&packet, buffer, sizeof buffer, PR_EVENT, 0, event->status, 0);
	pr_wire_add(&packet, PR_ITEM_EVENT, event, sizeof *event);
	pr_wire_add(&packet, PR_ITEM_STATE, &state, sizeof state);
	if (text && *text)
		pr_wire_add(&packet, PR_ITEM_TEXT, text, strlen(text));
	for (int i = 0; i < PR_CONNECTIONS; i++) {
		struct pr_connection *one = &monitor->connections[i];
		if (one->fd < 0 || !one->subscribed)
			continue;
		if (pr_sock_send(one->fd, buffer, packet.used, NULL, 0) < 0)
			hang_up(one);
	}
}

void pr_serve_wait(struct pr_connection *connection, const struct pr_header *header)
{
	connection->waits_for = header->verb;
	connection->tag = header->tag;
	connection->flags = header->flags;
}

static bool changing(const struct pr_monitor *monitor)
{
	return monitor->state == PR_CHECKPOINTING || monitor->state == PR_WAKING;
}

/* Grants a lease, or starts what has to come first. */
static void lease(struct pr_monitor *monitor, struct pr_connection *connection,
		  const struct pr_header *header)
{
	const char *why = NULL;
	if (!changing(monitor) && monitor->state == PR_ASLEEP && (header->flags & PR_FLAG_AWAKE)) {
		int32_t status = pr_wake_begin(monitor, PR_BY_VERB, &why);
		if (status) {
			pr_serve_answer(monitor, connection, PR_LEASE, header->tag, status, why);
			return;
		}
	}
	bool awake = header->flags & PR_FLAG_AWAKE;
	if (monitor->state == PR_DEPARTED && awake) {
		bool signal = header->flags & PR_FLAG_SIGNAL;
		pr_serve_answer(monitor, connection, PR_LEASE, header->tag,
				signal ? PR_ALREADY : PR_WRONG_STATE,
				"it runs on another node now");
		if (signal)
			pr_monitor_end(monitor, monitor->agreed);
		return;
	}
	/* What runs in a claimed container is nobody's; a signal may end it, as one that waits. */
	bool unborn = monitor->state == PR_CLAIMED && !(header->flags & PR_FLAG_SIGNAL);
	bool undecided = monitor->state == PR_HELD || monitor->state == PR_STAGED || unborn;
	if (changing(monitor) || (undecided && awake)) {
		pr_serve_wait(connection, header);
		return;
	}
	connection->lease = true;
	pr_serve_answer(monitor, connection, PR_LEASE, header->tag, PR_OK, NULL);
}

static int killed_status(const struct pr_monitor *monitor)
{
	return monitor->state == PR_DEPARTED ? monitor->agreed : 128 + SIGKILL;
}

static void kill_it(struct pr_monitor *monitor, struct pr_connection *connection,
		    const struct pr_header *header)
{
	if (changing(monitor)) {
		enum pr_goal goal = monitor->operation.goal;
		/* These end soon by themselves, and better so. */
		if (goal != PR_TO_RESUME && goal != PR_TO_DEPART && goal != PR_TO_DROP)
			pr_operation_abort(monitor, "the container is being killed");
		pr_serve_wait(connection, header);
		return;
	}
	bool for_runc = monitor->state == PR_FRESH || monitor->state == PR_RUNNING;
	pr_serve_answer(monitor, connection, PR_KILL, header->tag,
			for_runc ? PR_WRONG_STATE : PR_OK, NULL);
	if (!for_runc)
		pr_monitor_end_all(monitor, killed_status(monitor));
}

static void delete_it(struct pr_monitor *monitor, struct pr_connection *connection,
		      const struct pr_header *header)
{
	bool force = header->flags & PR_FLAG_FORCE;
	/* runc removes the cgroup next. */
	pr_cgroups_join(&monitor->own, getpid());
	if (!force && pr_claim_changing(monitor)) {
		pr_serve_wait(connection, header);
		return;
	}
	/* runc deletes what was never started, also without force. */
	if (monitor->state == PR_CLAIMED || monitor->state == PR_STAGED)
		force = true;
	if (!force || monitor->state == PR_FRESH || monitor->state == PR_RUNNING) {
		pr_serve_answer(monitor, connection, PR_DELETE, header->tag, PR_OK, NULL);
		return;
	}
	pr_monitor_end_all(monitor, killed_status(monitor)); /* its end is the answer */
}

static void started(struct pr_monitor *monitor, struct pr_connection *connection,
		    const struct pr_header *header)
{
	int failed = pr_cgroups_join(&monitor->own, getpid());
	if (failed)
		pr_monitor_log(monitor, "the container's cgroup is not left: errno %d", -failed);
	if (monitor->state == PR_CLAIMED || monitor->state == PR_STAGED ||
	    pr_claim_changing(monitor)) {
		/* containerd takes it for running from here on. Were it to wait, the end of whoever
		 * asked for the start would end the container, even one that has just arrived. */
		monitor->started = true;
		pr_serve_answer(monitor, connection, PR_STARTED, header->tag, PR_ALREADY, NULL);
		return;
	}
	if (monitor->state == PR_RUNNING && monitor->arrived) {
		pr_serve_answer(monitor, connection, PR_STARTED, header->tag, PR_ALREADY, NULL);
		return;
	}
	if (monitor->state == PR_FRESH)
		pr_monitor_enter(monitor, PR_RUNNING);
	connection->lease = true;
	pr_serve_answer(monitor, connection, PR_STARTED, header->tag, PR_OK, NULL);
}

/* True if the descriptors of the question are kept. */
static bool serve(struct pr_monitor *monitor, struct pr_connection *connection,
		  const struct pr_header *header, const uint8_t *packet, size_t bytes, int *fds,
		  int count)
{
	const char *why = NULL;
	int32_t status = PR_OK;
	switch (header->verb) {
	case PR_STATE:
		break;
	case PR_LEASE:
		lease(monitor, connection, header);
		return false;
	case PR_STARTED:
		started(monitor, connection, header);
		return false;
	case PR_CHECKPOINT:
		status = pr_sleep_begin(monitor, header->flags, packet, bytes, fds, count, &why);
		if (status)
			break;
		pr_serve_wait(connection, header);
		return false;
	case PR_ARM:
		status = pr_wake_arm(monitor, header->flags, packet, bytes, fds, count, &why);
		pr_serve_answer(monitor, connection, header->verb, header->tag, status,
				status ? why : NULL);
		if (status == PR_OK && (header->flags & PR_FLAG_READY))
			pr_wake_prepare(monitor);
		return status == PR_OK;
	case PR_DISARM:
		if (monitor->state == PR_WAKING || monitor->state == PR_STAGED)
			status = PR_WRONG_STATE;
		if (!status)
			pr_wake_disarm(monitor);
		break;
	case PR_WAKE:
		if (monitor->state == PR_RUNNING && !(header->flags & PR_FLAG_STAGE))
			break;
		if (monitor->state == PR_STAGED && (header->flags & PR_FLAG_STAGE))
			break;
		if (!changing(monitor))
			status = header->flags & PR_FLAG_STAGE
					 ? pr_wake_stage(monitor, &why)
					 : pr_wake_begin(monitor, PR_BY_CLIENT, &why);
		if (status)
			break;
		pr_serve_wait(connection, header);
		return false;
	case PR_KILL:
		kill_it(monitor, connection, header);
		return false;
	case PR_DELETE:
		delete_it(monitor, connection, header);
		return false;
	case PR_SUBSCRIBE:
		connection->subscribed = true;
		break;
	default:
		if (pr_serve_move(monitor, connection, header, packet, bytes, fds, count))
			return false;
		status = PR_BAD_REQUEST;
		why = "no such verb";
	}
	pr_serve_answer(monitor, connection, header->verb, header->tag, status,
			status ? why : NULL);
	return false;
}

void pr_serve_readable(struct pr_monitor *monitor, struct pr_connection *connection)
{
	static uint8_t packet[PR_PACKET_BYTES];
	struct pr_header header;
	int fds[PR_FDS_MAX], count;
	ssize_t bytes =
		pr_sock_receive(connection->fd, packet, sizeof packet, fds, PR_FDS_MAX, &count);
	if (bytes == -EAGAIN)
		return;
	if (bytes <= 0 || !pr_wire_check(packet, (size_t)bytes, &header)) {
		pr_close_all(fds, count);
		hang_up(connection);
		return;
	}
	if (!serve(monitor, connection, &header, packet, (size_t)bytes, fds, count))
		pr_close_all(fds, count);
}

/* Whether somebody who has asked for a wake, or to have it staged, has what he wanted. */
static void settle_wake(struct pr_monitor *monitor, struct pr_connection *connection,
			const struct pr_header *header, int32_t status, const char *text)
{
	bool stage = header->flags & PR_FLAG_STAGE;
	/* It came while the container fell asleep: that was not what was asked for. */
	if (!stage && !status && monitor->state == PR_ASLEEP)
		status = pr_wake_begin(monitor, PR_BY_CLIENT, &text);
	if (!stage && monitor->state == PR_WAKING) {
		pr_serve_wait(connection, header);
		return;
	}
	if (monitor->state == (stage ? PR_STAGED : PR_RUNNING))
		status = PR_OK;
	else if (!status)
		status = PR_CRIU_FAILED, text = "it was given up";
	pr_serve_answer(monitor, connection, PR_WAKE, header->tag, status, status ? text : NULL);
}

static void settle_one(struct pr_monitor *monitor, struct pr_connection *connection, int32_t status,
		       const char *text)
{
	struct pr_header header = {
		.verb = connection->waits_for, .tag = connection->tag, .flags = connection->flags};
	connection->waits_for = 0;
	switch (header.verb) {
	case PR_LEASE:
		if (status && monitor->state == PR_ASLEEP && (header.flags & PR_FLAG_AWAKE))
			pr_serve_answer(monitor, connection, PR_LEASE, header.tag, status, text);
		else
			lease(monitor, connection, &header);
		return;
	case PR_WAKE:
		settle_wake(monitor, connection, &header, status, text);
		return;
	case PR_STARTED:
		started(monitor, connection, &header);
		return;
	case PR_DELETE:
		delete_it(monitor, connection, &header);
		return;
	case PR_RESUME:
	case PR_DEPART:
	case PR_GO:
	case PR_DROP:
		pr_serve_move_settled(monitor, connection, &header, status, text);
		return;
	case PR_KILL:
		kill_it(monitor, connection, &header);
		return;
	default:
		pr_serve_answer(monitor, connection, header.verb, header.tag, status, text);
	}
}

void pr_serve_settled(struct pr_monitor *monitor, int32_t status, const char *text)
{
	for (int i = 0; i < PR_CONNECTIONS; i++) {
		struct pr_connection *one = &monitor->connections[i];
		if (one->fd >= 0 && one->waits_for && !changing(monitor))
			settle_one(monitor, one, status, text);
	}
}
