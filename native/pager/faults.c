// SPDX-License-Identifier: Apache-2.0
/* Owns the thread that answers CRIU and the kernel, each message in the order it came. */
#include "pager.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

/* Beside the ids of spaces. */
#define TAG_LISTENER   ((uint64_t)1 << 32)
#define TAG_CONNECTION ((uint64_t)2 << 32)
#define TAG_BELL       ((uint64_t)3 << 32)

/* A space gives way to the others after so many messages. */
#define MESSAGES_AT_ONCE 16

static enum outcome bring_neighbours(struct pager *pager, struct space *space, uint64_t address,
				     struct pf_error *err)
{
	uint64_t at = address & ~(uint64_t)(PAGER_AROUND_BYTES - 1);
	uint64_t end = at + PAGER_AROUND_BYTES;
	enum outcome outcome = PLACED;
	struct piece piece;

	while (outcome == PLACED &&
	       runs_missing(&space->runs, at, end, PAGER_AROUND_BYTES / PAGE_BYTES, &piece)) {
		outcome = place(pager, space, piece, err);
		at = piece.start;
	}
	return outcome == BLOCKED ? PLACED : outcome; /* nobody waits for these */
}

static enum outcome answer(struct pager *pager, struct space *space, uint64_t address,
			   struct pf_error *err)
{
	struct piece piece;
	enum outcome outcome;

	/* The one page first: its thread runs on while the neighbours come. */
	if (!runs_missing(&space->runs, address, address + PAGE_BYTES, 1, &piece))
		return place_zero(pager, space, address, err);
	outcome = place(pager, space, piece, err);
	/* Earlier, a neighbour may lie in a mapping that CRIU has yet to register. */
	if (outcome == PLACED && pager->restored)
		outcome = bring_neighbours(pager, space, address, err);
	return outcome;
}

/* Ends the space if it may end; a failure of the whole pager is noted. */
static void conclude(struct pager *pager, struct space *space, enum outcome outcome,
		     const struct pf_error *err)
{
	if (outcome == BROKEN)
		pager_fail(pager, err);
	else if (outcome == GONE || (pager->restored && space->runs.missing == 0))
		pager_space_over(pager, space);
}

static void serve_fault(struct pager *pager, struct space *space, uint64_t address)
{
	struct pf_error err = {0};
	enum outcome outcome = answer(pager, space, address, &err);

	if (outcome != BLOCKED) {
		conclude(pager, space, outcome, &err);
		return;
	}
	if (pager->deferred_count < PAGER_DEFERRED) {
		pager->deferred[pager->deferred_count++] =
			(struct deferred_fault){space->id, address};
	} else {
		/* Let the thread fault again: then the message comes again too. */
		wake_range(space->uffd, address, PAGE_BYTES);
	}
}

static void retry_deferred(struct pager *pager)
{
	size_t count = pager->deferred_count;

	pager->deferred_count = 0;
	for (size_t at = 0; at < count; at++) {
		struct deferred_fault fault = pager->deferred[at];
		struct space *space = pager->spaces[fault.space];

		if (space->uffd >= 0)
			serve_fault(pager, space, fault.address);
	}
}

/* A copy fails while a thread of the process waits for its message to be read, or has been told and
 * not come back yet. One that gives back memory piece by piece (an allocator's, after a sleep)
 * leaves gaps of microseconds between its messages: unless they are used, a fault waits until it
 * has given back everything. */
static void retry_in_gap(struct pager *pager, const struct space *space)
{
	struct pollfd next = {.fd = space->uffd, .events = POLLIN};
	int64_t until_ns = pager_now_ns() + PAGER_GAP_NS;

	do {
		retry_deferred(pager);
		if (pager->deferred_count == 0 || space->uffd < 0)
			return;
	} while (poll(&next, 1, 0) == 0 && pager_now_ns() < until_ns);
}

static int serve_event(struct pager *pager, struct space *space, const struct uffd_msg *message,
		       struct pf_error *err)
{
	int code;

	pager->figures.events++;
	if (message->event == UFFD_EVENT_FORK)
		code = pager_add_child(pager, space, (int)message->arg.fork.ufd, err);
	else
		code = pager_apply_event(space, message, err);
	if (code < 0)
		return code;
	journal_commit(&pager->journal);
	conclude(pager, space, PLACED, err);
	return 0;
}

/* Reads one message of the space; gives 0 if there was none. */
static int serve_message(struct pager *pager, struct space *space, struct pf_error *err)
{
	struct journal_record *record = journal_next(&pager->journal, JOURNAL_EVENT, space->id);
	ssize_t got = read(space->uffd, &record->message, sizeof(record->message));
	int code;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got != sizeof(record->message))
		return pf_fail_errno(err, "cannot read what the kernel says of process %d",
				     space->pid);
	if (record->message.event == UFFD_EVENT_PAGEFAULT) {
		pager->figures.faults++;
		serve_fault(pager, space,
			    record->message.arg.pagefault.address & ~(PAGE_BYTES - 1));
		return 1;
	}
	code = serve_event(pager, space, &record->message, err);
	return code < 0 ? code : 1;
}

static int receive_process(struct pager *pager, struct journal_record *record, struct pf_error *err)
{
	int fd = criu_receive_fd(pager->connection, err);
	int pid = (int)record->number;
	int code;

	if (fd < 0)
		return fd;
	pager->pid_without_fd = 0;
	code = pager_add_process(pager, pid, fd, err);
	if (code < 0)
		return code;
	record->kind = JOURNAL_PROCESS;
	journal_commit(&pager->journal);
	return 0;
}

static int end_of_connection(struct pager *pager, struct pf_error *err)
{
	if (!pager->restored)
		return pf_fail(err, -ECONNRESET, "CRIU has ended before its restore was complete");
	epoll_ctl(pager->epoll, EPOLL_CTL_DEL, pager->connection, NULL);
	close(pager->connection);
	pager->connection = -1;
	return 0;
}

/* Takes CRIU's next message. */
static int receive(struct pager *pager, struct pf_error *err)
{
	struct journal_record *record = journal_next(&pager->journal, JOURNAL_INTAKE, pager->count);
	int code;

	if (pager->pid_without_fd) {
		record->number = pager->pid_without_fd;
		return receive_process(pager, record, err);
	}
	code = criu_receive_number(pager->connection, &record->number, err);
	if (code == 0)
		return end_of_connection(pager, err);
	if (code < 0)
		return code;
	if (record->number == CRIU_RESTORE_FINISHED) {
		record->kind = JOURNAL_RESTORED;
		journal_commit(&pager->journal);
		return pager_set_restored(pager, err);
	}
	/* A zombie has no memory. */
	if ((int)record->number <= 0) {
		record->number = 0;
		return 0;
	}
	return receive_process(pager, record, err);
}

static int watch(struct pager *pager, int fd, uint64_t tag, struct pf_error *err)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};

	if (fd >= 0 && epoll_ctl(pager->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		return pf_fail_errno(err, "cannot wait for messages");
	return 0;
}

static int accept_criu(struct pager *pager, struct pf_error *err)
{
	struct monitor_message message = {.type = MONITOR_CONNECTION};
	int code;

	pager->connection = criu_accept(pager->listener, err);
	if (pager->connection < 0)
		return pager->connection;
	close(pager->listener);
	pager->listener = -1;
	code = monitor_send(pager->monitor, message, pager->connection, err);
	return code < 0 ? code : watch(pager, pager->connection, TAG_CONNECTION, err);
}

static int serve_space(struct pager *pager, uint32_t id, struct pf_error *err)
{
	struct space *space = pager->spaces[id];
	int code = 1;

	/* It may have ended since epoll told of it. */
	for (int count = 0; code > 0 && count < MESSAGES_AT_ONCE && space->uffd >= 0; count++) {
		code = serve_message(pager, space, err);
		if (code > 0 && pager->deferred_count > 0)
			retry_in_gap(pager, space);
	}
	return code;
}

static void serve(struct pager *pager, uint64_t tag)
{
	struct pf_error err = {0};
	int code = 0;

	if (tag == TAG_LISTENER)
		code = accept_criu(pager, &err);
	else if (tag == TAG_CONNECTION && pager->connection >= 0)
		code = receive(pager, &err);
	else if (tag < PAGER_MAX_SPACES)
		code = serve_space(pager, (uint32_t)tag, &err);
	if (code < 0)
		pager_fail(pager, &err);
}

static void wait_a_little(void)
{
	struct timespec pause = {.tv_nsec = PAGER_RETRY_NS};

	nanosleep(&pause, NULL);
}

int faults_run(struct pager *pager)
{
	struct pf_error err = {0};

	if (watch(pager, pager->bell, TAG_BELL, &err) < 0 ||
	    watch(pager, pager->listener, TAG_LISTENER, &err) < 0 ||
	    watch(pager, pager->connection, TAG_CONNECTION, &err) < 0)
		pager_fail(pager, &err);
	pager_take(pager);
	while (pager->code == 0 && !pager_is_done(pager)) {
		struct epoll_event events[32];
		int timeout_ms = pager->deferred_count ? 0 : -1;
		int count;

		pager_release(pager);
		count = epoll_wait(pager->epoll, events, 32, timeout_ms);
		if (count == 0)
			wait_a_little();
		pager_take(pager);
		for (int at = 0; at < count && pager->code == 0; at++)
			serve(pager, events[at].data.u64);
		retry_deferred(pager);
	}
	pager_release(pager);
	if (pager->filling)
		pthread_join(pager->filler, NULL);
	return pager->code;
}
