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

/* What is read of the store before the lock is taken: a copy that waited for a disk would make the
 * faults wait too. */
static struct window window_at(const struct pager *pager, const unsigned char *bytes)
{
	for (size_t at = 0; at < pager->files.count; at++) {
		const unsigned char *start = pager->files.list[at].start;
		const unsigned char *end = start + pager->files.list[at].bytes;

		if (bytes >= start && bytes < end)
			return (struct window){bytes, (size_t)(end - bytes) > PAGER_WINDOW_BYTES
							      ? bytes + PAGER_WINDOW_BYTES
							      : end};
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

/* Places up to BUDGET pages. WANTED gets the window that is needed before it can go on. */
static enum outcome fill_some(struct pager *pager, struct space *space, uint64_t budget,
			      struct window have, struct window *wanted, struct pf_error *err)
{
	enum outcome outcome = PLACED;
	struct piece piece;

	while (outcome == PLACED && budget > 0 && runs_next(&space->runs, budget, &piece)) {
		if (piece.bytes < have.start || piece.bytes >= have.end) {
			*wanted = window_at(pager, piece.bytes);
			return PLACED;
		}
		if (piece.bytes + piece.pages * PAGE_BYTES > have.end)
			piece.pages = (uint64_t)(have.end - piece.bytes) / PAGE_BYTES;
		outcome = place(pager, space, piece, err);
		budget -= piece.pages;
	}
	return outcome;
}

/* One step. Gives false when there is nothing left to do. */
static bool step(struct pager *pager, struct pace *pace, struct window have, struct window *wanted,
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

void *fill_run(void *argument)
{
	struct pager *pager = argument;
	struct window have = {0}, wanted = {0};
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
		if (wanted.start)
			have = ahead_get(&ahead, wanted, window_at(pager, wanted.end));
		if (blocked) {
			struct timespec pause = {.tv_nsec = PAGER_RETRY_NS};

			nanosleep(&pause, NULL);
		}
		wanted = (struct window){0};
	}
	ahead_stop(&ahead);
	return NULL;
}
