// SPDX-License-Identifier: Apache-2.0
/* Does to the bookkeeping of runs what random processes do to their memory, and compares it with a
 * plain table that has one line for each page. */
#include <stdint.h>
#include <string.h>

#include "check.h"
#include "runs.h"

#define PLACES 512 /* pages that exist in this small world */
#define BASE   0x10000000u

/* What the table says of a page: which byte of the store it lacks, or nothing. */
static const unsigned char *table[PLACES];
static unsigned char store[PLACES * PAGE_BYTES];
static uint32_t state = 1;

static unsigned dice(unsigned sides)
{
	state = state * 1664525u + 1013904223u;
	return (state >> 8) % sides;
}

static uint64_t address(unsigned place)
{
	return BASE + place * PAGE_BYTES;
}

static void make(struct runs *runs)
{
	unsigned place = dice(4);

	memset(table, 0, sizeof(table));
	*runs = (struct runs){0};
	while (place < PLACES) {
		unsigned pages = 1 + dice(40);
		unsigned from = dice(PLACES - 40);

		if (place + pages > PLACES)
			break;
		CHECK_EQUAL(runs_add(runs, address(place), pages, store + from * PAGE_BYTES, NULL),
			    0);
		for (unsigned page = 0; page < pages; page++)
			table[place + page] = store + (from + page) * PAGE_BYTES;
		place += pages + dice(3) * dice(9);
	}
	CHECK_EQUAL(runs_close(runs, NULL), 0);
}

static void compare(struct runs *runs)
{
	uint64_t missing = 0;
	struct piece piece;

	for (unsigned place = 0; place < PLACES; place++) {
		uint64_t at = address(place);
		bool found = runs_missing(runs, at, at + PAGE_BYTES, 1, &piece);

		CHECK_EQUAL(found, table[place] != NULL);
		missing += found;
		if (found) {
			CHECK_EQUAL(piece.start, at);
			CHECK_EQUAL(piece.pages, 1);
			CHECK(piece.bytes == table[place]);
		}
	}
	CHECK_EQUAL(runs->missing, missing);
	for (size_t index = 1; index < runs->count; index++)
		CHECK(runs->list[index].start >=
		      runs->list[index - 1].start + runs->list[index - 1].pages * PAGE_BYTES);
}

static void forget(unsigned from, unsigned to)
{
	for (unsigned place = from; place < to; place++)
		table[place] = NULL;
}

static void move(struct runs *runs, unsigned from, unsigned to, unsigned pages)
{
	const unsigned char *moved[PLACES];

	memcpy(moved, &table[from], pages * sizeof(*moved));
	forget(from, from + pages);
	memcpy(&table[to], moved, pages * sizeof(*moved));
	CHECK_EQUAL(runs_remap(runs, address(from), address(to), pages * PAGE_BYTES, NULL), 0);
	/* The kernel says of a move that the old place is unmapped too; something may be there
	 * again by then. */
	CHECK_EQUAL(runs_unmap(runs, address(from), address(from + pages), NULL), 0);
}

static void change(struct runs *runs)
{
	unsigned from = dice(PLACES), to = from + dice(PLACES - from + 1);
	unsigned pages = to - from, target = dice(PLACES - pages + 1);
	struct piece piece;

	switch (dice(4)) {
	case 0:
		forget(from, to);
		runs_settle(runs, address(from), address(to));
		break;
	case 1:
		forget(from, to);
		if (pages > 0)
			CHECK_EQUAL(runs_unmap(runs, address(from), address(to), NULL), 0);
		break;
	case 2:
		/* The kernel refuses to move memory onto itself. */
		if (pages > 0 && (target + pages <= from || target >= to))
			move(runs, from, target, pages);
		break;
	default:
		if (runs_next(runs, 1 + dice(20), &piece)) {
			unsigned place = (unsigned)((piece.start - BASE) / PAGE_BYTES);

			for (unsigned page = 0; page < piece.pages; page++)
				CHECK(table[place + page] == piece.bytes + page * PAGE_BYTES);
			forget(place, place + (unsigned)piece.pages);
			runs_settle(runs, piece.start, piece.start + piece.pages * PAGE_BYTES);
		}
	}
}

static void random_lives(void)
{
	for (unsigned life = 0; life < 300; life++) {
		struct runs runs, child;

		make(&runs);
		compare(&runs);
		for (unsigned step = 0; step < 12; step++) {
			change(&runs);
			compare(&runs);
		}
		CHECK_EQUAL(runs_clone(&runs, &child, NULL), 0);
		change(&child);
		compare(&child);
		runs_free(&child);
		runs_free(&runs);
	}
}

static void everything_is_placed_once(void)
{
	struct runs runs;
	struct piece piece;
	uint64_t placed = 0, wanted;

	make(&runs);
	wanted = runs.missing;
	while (runs_next(&runs, 7, &piece)) {
		CHECK(piece.pages <= 7);
		placed += piece.pages;
		runs_settle(&runs, piece.start, piece.start + piece.pages * PAGE_BYTES);
	}
	CHECK_EQUAL(placed, wanted);
	CHECK_EQUAL(runs.missing, 0);
	runs_free(&runs);
}

static void what_moved_into_a_vacated_place_stays(void)
{
	struct runs runs = {0};
	struct piece piece;

	CHECK_EQUAL(runs_add(&runs, address(0), 4, store, NULL), 0);
	CHECK_EQUAL(runs_add(&runs, address(10), 4, store + 8 * PAGE_BYTES, NULL), 0);
	CHECK_EQUAL(runs_close(&runs, NULL), 0);
	CHECK_EQUAL(runs_remap(&runs, address(0), address(20), 4 * PAGE_BYTES, NULL), 0);
	CHECK_EQUAL(runs_remap(&runs, address(10), address(0), 4 * PAGE_BYTES, NULL), 0);
	CHECK_EQUAL(runs_unmap(&runs, address(0), address(4), NULL), 0);
	CHECK_EQUAL(runs_unmap(&runs, address(10), address(14), NULL), 0);
	CHECK_EQUAL(runs.missing, 8);
	CHECK(runs_missing(&runs, address(0), address(1), 1, &piece));
	CHECK(piece.bytes == store + 8 * PAGE_BYTES);
	/* This one is meant. */
	CHECK_EQUAL(runs_unmap(&runs, address(0), address(4), NULL), 0);
	CHECK_EQUAL(runs.missing, 4);
	runs_free(&runs);
}

int main(void)
{
	random_lives();
	everything_is_placed_once();
	what_moved_into_a_vacated_place_stays();
	return 0;
}
