// SPDX-License-Identifier: Apache-2.0
/* Owns the pager's state: its spaces from their arrival to their end, and the lock. */
#include "pager.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

int pager_init(struct pager *pager, struct pf_error *err)
{
	*pager = (struct pager){.root = -1,
				.monitor = -1,
				.listener = -1,
				.connection = -1,
				.epoll = -1,
				.bell = -1};
	pthread_mutex_init(&pager->next, NULL);
	pthread_mutex_init(&pager->data, NULL);
	pager->epoll = epoll_create1(EPOLL_CLOEXEC);
	pager->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (pager->epoll < 0 || pager->bell < 0)
		return pf_fail_errno(err, "cannot wait for events");
	return 0;
}

static void close_if_open(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void pager_free(struct pager *pager)
{
	for (uint32_t id = 0; id < pager->count; id++) {
		close_if_open(&pager->spaces[id]->uffd);
		runs_free(&pager->spaces[id]->runs);
		free(pager->spaces[id]);
	}
	pager->count = 0;
	close_if_open(&pager->listener);
	close_if_open(&pager->connection);
	close_if_open(&pager->epoll);
	close_if_open(&pager->bell);
	close_if_open(&pager->root);
	images_close(&pager->files);
	journal_close(&pager->journal);
	pthread_mutex_destroy(&pager->next);
	pthread_mutex_destroy(&pager->data);
}

void pager_take(struct pager *pager)
{
	/* Who waits for `data` holds `next`, so that the other thread, coming back, queues. */
	pthread_mutex_lock(&pager->next);
	pthread_mutex_lock(&pager->data);
	pthread_mutex_unlock(&pager->next);
}

void pager_release(struct pager *pager)
{
	pthread_mutex_unlock(&pager->data);
}

static void ring(struct pager *pager)
{
	uint64_t one = 1;
	ssize_t written = write(pager->bell, &one, sizeof(one));

	(void)written; /* it fails only when it rings already */
}

void pager_fail(struct pager *pager, const struct pf_error *err)
{
	if (pager->code == 0) {
		pager->code = err->code;
		pager->error = *err;
	}
	ring(pager);
}

static int add(struct pager *pager, int pid, struct space **added, struct pf_error *err)
{
	struct space *space;

	if (pager->count == PAGER_MAX_SPACES)
		return pf_fail(err, -E2BIG, "more than %u address spaces", PAGER_MAX_SPACES);
	space = calloc(1, sizeof(*space));
	if (!space)
		return pf_fail(err, -ENOMEM, "cannot keep another address space");
	*space = (struct space){.id = pager->count, .pid = pid, .uffd = -1};
	pager->spaces[pager->count++] = space;
	*added = space;
	return 0;
}

int pager_watch(struct pager *pager, struct space *space, int uffd, struct pf_error *err)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = space->id};

	space->uffd = uffd;
	if (epoll_ctl(pager->epoll, EPOLL_CTL_ADD, uffd, &event) < 0)
		return pf_fail_errno(err, "cannot wait for the faults of process %d", space->pid);
	pager->live++;
	return 0;
}

/* The monitor has a duplicate before anything is served. Once the processes run, a monitor that
 * is gone must not end the pager: they would read zeros in place of what is missing. */
static int announce(const struct pager *pager, const struct space *space, int uffd,
		    struct pf_error *err)
{
	struct monitor_message message = {.type = MONITOR_USERFAULTFD,
					  .space = space->id,
					  .pid = space->pid,
					  .pages = space->runs.missing};
	int code = monitor_send(pager->monitor, message, uffd, err);

	return pager->restored ? 0 : code;
}

int pager_add_process(struct pager *pager, int pid, int uffd, struct pf_error *err)
{
	struct space *space;
	int code = add(pager, pid, &space, err);

	if (code == 0 && pager->set)
		code = images_read(pager->root, pager->set, pid, &pager->files, &space->runs, err);
	else if (code == 0)
		code = store_read(pager->root, pid, &pager->files, &space->runs, err);
	if (code < 0 || uffd < 0)
		return code;
	code = pager_watch(pager, space, uffd, err);
	return code < 0 ? code : announce(pager, space, uffd, err);
}

int pager_add_child(struct pager *pager, const struct space *parent, int uffd, struct pf_error *err)
{
	struct space *space, told = *parent;
	int code;

	/* First of all: a pager that is killed before this takes the descriptor with it. */
	told.id = pager->count;
	code = uffd < 0 ? 0 : announce(pager, &told, uffd, err);
	if (code == 0)
		code = add(pager, parent->pid, &space, err);
	if (code == 0)
		code = runs_clone(&parent->runs, &space->runs, err);
	return code < 0 || uffd < 0 ? code : pager_watch(pager, space, uffd, err);
}

bool pager_is_done(const struct pager *pager)
{
	return pager->restored && pager->live == 0;
}

void pager_space_over(struct pager *pager, struct space *space)
{
	struct monitor_message message = {
		.type = MONITOR_OVER, .space = space->id, .pid = space->pid};

	/* Before close: with a duplicate elsewhere epoll would go on telling of it. */
	epoll_ctl(pager->epoll, EPOLL_CTL_DEL, space->uffd, NULL);
	close(space->uffd);
	space->uffd = -1;
	runs_free(&space->runs);
	pager->live--;
	journal_next(&pager->journal, JOURNAL_OVER, space->id);
	journal_commit(&pager->journal);
	/* A monitor that is gone changes nothing for the process. */
	monitor_send(pager->monitor, message, -1, NULL);
	if (pager_is_done(pager))
		ring(pager);
}

int64_t pager_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int pager_set_restored(struct pager *pager, struct pf_error *err)
{
	struct monitor_message message = {.type = MONITOR_RESTORED};
	int code;

	pager->restored = true;
	pager->figures.restored_ns = pager_now_ns();
	monitor_send(pager->monitor, message, -1, NULL);
	for (uint32_t id = 0; id < pager->count; id++)
		if (pager->spaces[id]->uffd >= 0 && pager->spaces[id]->runs.missing == 0)
			pager_space_over(pager, pager->spaces[id]);
	code = pthread_create(&pager->filler, NULL, fill_run, pager);
	if (code != 0)
		return pf_fail(err, -code, "cannot start the fill: %s", strerror(code));
	pager->filling = true;
	return 0;
}
