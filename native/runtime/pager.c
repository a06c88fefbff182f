/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the pager's life and the duplicates of its userfaultfds: when the last one of a process
 * whose memory is not all in closes, its missing pages read as zeros. A pager that dies is
 * replaced by one that goes on with the duplicates and the journal (docs/pager.md). */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor.h"
#include "sock.h"

#define PAGER_WORDS       24
#define RESTARTS_MAX      5
#define MESSAGE_MAGIC     0x47504650u /* "PFPG" */
#define MESSAGE_VERSION   1
#define EXIT_NOT_RESTORED 1
#define EXIT_LOST         3

enum message_type {
	LISTENING = 1,
	CONNECTION = 2,
	USERFAULTFD = 3,
	OVER = 5,
};

/* As docs/pager.md lays it out. */
struct message {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	uint32_t space;
	int32_t pid;
	uint64_t pages;
	uint64_t reserved;
};
static_assert(sizeof(struct message) == 32, "docs/pager.md");

void pr_pager_let_go(struct pr_pager *pager)
{
	for (int i = 0; i < pager->held_count; i++)
		close(pager->held[i].fd);
	if (pager->connection >= 0)
		close(pager->connection);
	if (pager->socket >= 0)
		close(pager->socket);
	free(pager->argv);
	*pager = (struct pr_pager){.socket = -1, .connection = -1};
}

static int words_of(const struct pr_pager *pager, char **words)
{
	int count = 0;
	for (size_t at = 0; at < pager->argv_bytes && count < PAGER_WORDS;) {
		words[count++] = pager->argv + at;
		at += strlen(pager->argv + at) + 1;
	}
	return count;
}

static int start(struct pr_monitor *monitor, char **words, int count, const int *given, int fds)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	words[count++] = (char[]){"--monitor-fd"};
	words[count++] = (char[]){"3"};
	words[count] = NULL;
	struct pr_spawn spawn = {.program = words[0],
				 .argv = words,
				 .log = monitor->log,
				 .special = pair[1],
				 .stdio = {-1, -1, -1},
				 .given = given,
				 .given_count = fds,
				 .outlives_us = true};
	pid_t pid = pr_spawn_child(&spawn);
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return pid;
	}
	monitor->pager.pid = pid;
	monitor->pager.socket = pair[0];
	return 0;
}

int pr_pager_start(struct pr_monitor *monitor, const struct pr_view *argv, const int *given,
		   int count)
{
	struct pr_pager *pager = &monitor->pager;
	char *words[PAGER_WORDS + 3];
	pr_pager_let_go(pager);
	pager->argv = malloc(argv->bytes);
	if (!pager->argv)
		return -ENOMEM;
	memcpy(pager->argv, argv->at, argv->bytes);
	pager->argv_bytes = argv->bytes;
	int used = words_of(pager, words);
	return start(monitor, words, used, given, count);
}

/* Another one goes on where it stopped. */
static int resume(struct pr_monitor *monitor)
{
	struct pr_pager *pager = &monitor->pager;
	char *words[PAGER_WORDS + 2 * PR_SPACES_MAX + 8];
	char spaces[PR_SPACES_MAX][24], connection[16];
	/* Of this block, since a compound literal ends with the block that it stands in. */
	char uffd_option[] = "--uffd-fd", connection_option[] = "--connection-fd";
	int given[PR_GIVEN_MAX], fds = 0;
	int used = words_of(pager, words);
	words[used++] = (char[]){"--resume"};
	for (int i = 0; i < pager->held_count; i++) {
		snprintf(spaces[i], sizeof spaces[i], "%u:%d", pager->held[i].space,
			 PR_FD_GIVEN + fds);
		words[used++] = uffd_option;
		words[used++] = spaces[i];
		given[fds++] = pager->held[i].fd;
	}
	if (pager->connection >= 0) {
		snprintf(connection, sizeof connection, "%d", PR_FD_GIVEN + fds);
		words[used++] = connection_option;
		words[used++] = connection;
		given[fds++] = pager->connection;
	}
	if (pager->socket >= 0)
		close(pager->socket);
	pager->socket = -1;
	return start(monitor, words, used, given, fds);
}

static void hold(struct pr_monitor *monitor, uint32_t space, int fd)
{
	struct pr_pager *pager = &monitor->pager;
	if (pager->held_count < PR_SPACES_MAX) {
		pager->held[pager->held_count].space = space;
		pager->held[pager->held_count++].fd = fd;
		return;
	}
	pr_monitor_log(monitor, "more processes than userfaultfds can be held");
	close(fd);
}

static void drop(struct pr_pager *pager, uint32_t space)
{
	for (int i = 0; i < pager->held_count; i++) {
		if (pager->held[i].space != space)
			continue;
		close(pager->held[i].fd);
		pager->held[i] = pager->held[--pager->held_count];
		return;
	}
}

/* False once there is nothing more to read just now. */
static bool take_message(struct pr_monitor *monitor)
{
	struct pr_pager *pager = &monitor->pager;
	struct message message;
	struct pollfd ready = {.fd = pager->socket, .events = POLLIN};
	int fds[PR_FDS_MAX], count = 0;
	if (pager->socket < 0 || poll(&ready, 1, 0) != 1)
		return false;
	ssize_t bytes =
		pr_sock_receive(pager->socket, &message, sizeof message, fds, PR_FDS_MAX, &count);
	if (bytes <= 0) {
		close(pager->socket);
		pager->socket = -1;
		return false;
	}
	bool known = bytes == sizeof message && message.magic == MESSAGE_MAGIC &&
		     message.version == MESSAGE_VERSION;
	int kept = 0;
	if (known && message.type == LISTENING) {
		pager->listening = true;
		pr_wake_pager_listens(monitor);
	}
	if (known && message.type == CONNECTION && count) {
		if (pager->connection >= 0)
			close(pager->connection);
		pager->connection = fds[kept++];
	}
	if (known && message.type == USERFAULTFD && count)
		hold(monitor, message.space, fds[kept++]);
	if (known && message.type == OVER)
		drop(pager, message.space);
	pr_close_all(fds + kept, count - kept);
	return true;
}

void pr_pager_readable(struct pr_monitor *monitor)
{
	take_message(monitor);
}

/* A container that has not run yet may be staged again; one that has must not go on. */
static void lost(struct pr_monitor *monitor)
{
	if (monitor->state == PR_STAGED && monitor->criu > 0)
		kill(monitor->criu, SIGKILL);
	else if (monitor->state == PR_WAKING && monitor->operation.goal == PR_TO_STAGE)
		pr_operation_abort(monitor, "the pager has ended");
	else
		pr_wake_lost(monitor, "its memory cannot be completed");
}

void pr_pager_ended(struct pr_monitor *monitor, int status)
{
	struct pr_pager *pager = &monitor->pager;
	/* What it has sent before its end is there, and more precious than itself. */
	while (take_message(monitor))
		continue;
	pager->pid = 0;
	pager->status = status;
	if (monitor->state == PR_ASLEEP) {
		pr_pager_let_go(pager); /* started early, or for a wake that has failed */
		return;
	}
	if (status == 0) {
		pr_wake_filled(monitor);
		return;
	}
	bool restored = monitor->state == PR_RUNNING || monitor->operation.success;
	if (!restored && (pager->connection < 0 || status == EXIT_NOT_RESTORED)) {
		/* CRIU will fail by itself, if it has been asked at all. */
		if (monitor->state == PR_WAKING && !monitor->operation.event.criu_ns)
			pr_operation_abort(monitor, "the pager has not started");
		else if (monitor->state == PR_STAGED)
			lost(monitor);
		return;
	}
	pr_monitor_log(monitor, "the pager ended with %d before all memory was in", status);
	if (status == EXIT_LOST || status == EXIT_NOT_RESTORED ||
	    pager->restarts++ >= RESTARTS_MAX || resume(monitor) < 0)
		lost(monitor);
}
