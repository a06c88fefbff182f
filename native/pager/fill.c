// SPDX-License-Identifier: Apache-2.0
/* Owns the thread that places, from low addresses to high, what no fault has asked for. */
#include "pager.h"

#include <time.h>

#include "ahead.h"

/* Whether the process has asked for pages lately. */
struct pace {
	uint64_t faults;  /* so many at the last step */
	unsigned hurried; /* small steps to come */
};

static struct space *first_live(const struct pager *pager)
{
	/* Forked children come last: most of them end, or execute something, before their turn. */
	for (uint32_t id = 0; id < pager->count; id++)
		if (pager->spaces[id]->uffd >= 0)
			return pager->spaces[id];
	return NULL;
}

/* What is read of the files before the lock is taken: a copy that waited for a disk would make the
 * faults wait too. PAGES: how many lie there, neighbours in the process too; a page store has holes
 * between such runs, and reading a hole of a tmpfs would fill it. */
static struct window window_at(const struct pager *pager, const unsigned char *bytes,
			       uint64_t pages)
{
	uint64_t most = PAGER_WINDOW_BYTES;

	if (!pager->set && pages * PAGE_BYTES < most)
		most = pages * PAGE_BYTES;
	if (most == 0)
		return (struct window){0};
	for (size_t at = 0; at < pager->files.count; at++) {
		const unsigned char *start = pager->files.list[at].start;
		const unsigned char *end = start + pager->files.list[at].bytes;

		if (bytes >= start && bytes < end)
			return (struct window){bytes,
					       (size_t)(end - bytes) > most ? bytes + most : end};
	}
	return (struct window){0};
}

/* How much is placed before a fault gets its turn: less while the process is asking. */
static uint64_t step_pages(const struct pager *pager, struct pace *pace)
{
	if (pager->figures.faults != pace->faults)
		pace->hurried = PAGER_HURRIED_STEPS;
	else if (pace->hurried > 0)
		pace->hurried--;
	pace->faults = pager->figures.faults;
	return (pace->hurried > 0 ? PAGER_HURRIED_BYTES : PAGER_FILL_BYTES) / PAGE_BYTES;
}

/* The two windows that are needed before the fill can go on. */
struct view {
	struct window now, next;
};

/* In a store, few pages are mapped more quickly than another thread is asked to. */
static bool needs_window(const struct pager *pager, const struct piece *piece)
{
	return pager->set || piece->run_pages * PAGE_BYTES > PAGER_AROUND_BYTES;
}

/* Places up to BUDGET pages. WANTED gets what must be in memory before it can go on. */
static enum outcome fill_some(struct pager *pager, struct space *space, uint64_t budget,
			      struct window have, struct view *wanted, struct pf_error *err)
{
	enum outcome outcome = PLACED;
	struct piece piece;

	while (outcome == PLACED && budget > 0 && runs_next(&space->runs, budget, &piece)) {
		bool inside = piece.bytes >= have.start && piece.bytes < have.end;

		if (!inside && needs_window(pager, &piece)) {
			uint64_t ahead = PAGER_WINDOW_BYTES / PAGE_BYTES;

			wanted->now = window_at(pager, piece.bytes, piece.run_pages);
			wanted->next =
				window_at(pager, wanted->now.end,
					  piece.run_pages > ahead ? piece.run_pages - ahead : 0);
			return PLACED;
		}
		if (inside && piece.bytes + piece.pages * PAGE_BYTES > have.end)
			piece.pages = (uint64_t)(have.end - piece.bytes) / PAGE_BYTES;
		outcome = place(pager, space, piece, err);
		budget -= piece.pages;
	}
	return outcome;
}

/* One step. Gives false when there is nothing left to do. */
static bool step(struct pager *pager, struct pace *pace, struct window have, struct view *wanted,
		 bool *blocked)
{
	struct pf_error err = {0};
	enum outcome outcome;
	struct space *space;

	pager_take(pager);
	space = first_live(pager);
	if (!space || pager->code != 0) {
		pager_release(pager);
		return false;
	}
	outcome = fill_some(pager, space, step_pages(pager, pace), have, wanted, &err);
	if (outcome == BROKEN)
		pager_fail(pager, &err);
	else if (outcome == GONE || space->runs.missing == 0)
		pager_space_over(pager, space);
	pager_release(pager);
	*blocked = outcome == BLOCKED;
	return true;
}

static void rest(const struct pager *pager, const struct pace *pace)
{
	struct timespec pause = {.tv_nsec = PAGER_GENTLE_PAUSE_NS};

	if (pace->hurried == 0)
		return;
	if (pager_now_ns() - pager->figures.restored_ns < PAGER_GENTLE_NS)
		nanosleep(&pause, NULL);
}

void *fill_run(void *argument)
{
	struct pager *pager = argument;
	struct window have = {0};
	struct view wanted = {0};
	bool blocked = false;
	struct pace pace = {0};
	struct ahead ahead;
	struct pf_error err = {0};

	if (ahead_start(&ahead, &err) < 0) {
		pager_take(pager);
		pager_fail(pager, &err);
		pager_release(pager);
		return NULL;
	}
	while (step(pager, &pace, have, &wanted, &blocked)) {
		if (wanted.now.start)
			have = ahead_get(&ahead, wanted.now, wanted.next);
		if (blocked) {
			struct timespec pause = {.tv_nsec = PAGER_RETRY_NS};

			nanosleep(&pause, NULL);
		}
		rest(pager, &pace);
		wanted = (struct view){0};
	}
	ahead_stop(&ahead);
	return NULL;
}
