// SPDX-License-Identifier: Apache-2.0
/* Owns the bookkeeping of missing pages; knows neither the kernel nor images. */
#include "runs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t run_end(const struct run *run)
{
	return run->start + run->pages * PAGE_BYTES;
}

static uint64_t least(uint64_t left, uint64_t right)
{
	return left < right ? left : right;
}

static uint64_t most(uint64_t left, uint64_t right)
{
	return left > right ? left : right;
}

/* The first run that ends behind ADDRESS. */
static size_t seek(const struct runs *runs, uint64_t address)
{
	size_t low = 0, high = runs->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (run_end(&runs->list[middle]) <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The first bit in [FROM, END) that has this value; END if none has. */
static uint64_t next_bit(const uint64_t *bits, uint64_t from, uint64_t end, bool value)
{
	while (from < end) {
		uint64_t word = value ? bits[from / 64] : ~bits[from / 64];

		word &= ~(uint64_t)0 << (from % 64);
		if (word)
			return least(end, from / 64 * 64 + (uint64_t)__builtin_ctzll(word));
		from = (from / 64 + 1) * 64;
	}
	return end;
}

/* Sets the bits and says how many of them were not set. */
static uint64_t set_bits(uint64_t *bits, uint64_t from, uint64_t end)
{
	uint64_t changed = 0;

	while (from < end) {
		uint64_t stop = least(end, (from / 64 + 1) * 64);
		uint64_t mask = ~(uint64_t)0 << (from % 64);

		if (stop % 64)
			mask &= ~(~(uint64_t)0 << (stop % 64));
		changed += (uint64_t)__builtin_popcountll(mask & ~bits[from / 64]);
		bits[from / 64] |= mask;
		from = stop;
	}
	return changed;
}

static int reserve(struct runs *runs, size_t more, struct pf_error *err)
{
	size_t room = runs->room ? runs->room : 64;
	struct run *grown;

	while (room < runs->count + more)
		room *= 2;
	if (room == runs->room)
		return 0;
	grown = reallocarray(runs->list, room, sizeof(*grown));
	if (!grown)
		return pf_fail_errno(err, "cannot keep %zu runs of pages", room);
	runs->list = grown;
	runs->room = room;
	return 0;
}

int runs_add(struct runs *runs, uint64_t start, uint64_t pages, const unsigned char *bytes,
	     struct pf_error *err)
{
	struct run *last = runs->count ? &runs->list[runs->count - 1] : NULL;
	int code;

	if (last && start < run_end(last))
		return pf_fail(err, -EINVAL, "pages at %#llx come after pages behind them",
			       (unsigned long long)start);
	if (last && start == run_end(last) && bytes == last->bytes + last->pages * PAGE_BYTES) {
		last->pages += pages;
		runs->pages += pages;
		return 0;
	}
	code = reserve(runs, 1, err);
	if (code < 0)
		return code;
	runs->list[runs->count++] =
		(struct run){.start = start, .pages = pages, .first = runs->pages, .bytes = bytes};
	runs->pages += pages;
	return 0;
}

int runs_add_hot(struct runs *runs, uint64_t start, uint64_t end, struct pf_error *err)
{
	if (runs->hot_count == runs->hot_room) {
		size_t room = runs->hot_room ? runs->hot_room * 2 : 64;
		struct range *grown = reallocarray(runs->hot, room, sizeof(*grown));

		if (!grown)
			return pf_fail_errno(err, "cannot keep the order of %zu ranges", room);
		runs->hot = grown;
		runs->hot_room = room;
	}
	runs->hot[runs->hot_count++] = (struct range){start, end};
	return 0;
}

int runs_close(struct runs *runs, struct pf_error *err)
{
	runs->placed = calloc(runs->pages / 64 + 1, sizeof(*runs->placed));
	if (!runs->placed)
		return pf_fail_errno(err, "cannot keep a bit for each of %llu pages",
				     (unsigned long long)runs->pages);
	runs->missing = runs->pages;
	return 0;
}

int runs_clone(const struct runs *from, struct runs *to, struct pf_error *err)
{
	size_t bits_bytes = (from->pages / 64 + 1) * sizeof(*from->placed);
	int code;

	*to = *from;
	to->list = NULL;
	to->count = to->room = 0;
	to->placed = NULL;
	/* What a parent is likely to touch says little of its child. */
	to->hot = NULL;
	to->hot_count = to->hot_room = to->hot_at = 0;
	code = reserve(to, from->count, err);
	if (code < 0)
		return code;
	to->placed = malloc(bits_bytes);
	if (!to->placed) {
		runs_free(to);
		return pf_fail(err, -ENOMEM, "cannot copy the page bits of a forked process");
	}
	memcpy(to->placed, from->placed, bits_bytes);
	if (from->count)
		memcpy(to->list, from->list, from->count * sizeof(*to->list));
	to->count = from->count;
	to->cursor = 0;
	return 0;
}

void runs_free(struct runs *runs)
{
	free(runs->list);
	free(runs->placed);
	free(runs->hot);
	*runs = (struct runs){0};
}

bool runs_missing(const struct runs *runs, uint64_t start, uint64_t end, uint64_t limit,
		  struct piece *piece)
{
	for (size_t at = seek(runs, start); at < runs->count; at++) {
		const struct run *run = &runs->list[at];
		uint64_t from = most(start, run->start), to = least(end, run_end(run));
		uint64_t first, stop, skipped;

		if (run->start >= end)
			return false;
		first = run->first + (from - run->start) / PAGE_BYTES;
		stop = run->first + (to - run->start) / PAGE_BYTES;
		skipped = next_bit(runs->placed, first, stop, false);
		if (skipped == stop)
			continue;
		piece->start = run->start + (skipped - run->first) * PAGE_BYTES;
		piece->bytes = run->bytes + (skipped - run->first) * PAGE_BYTES;
		piece->run_pages = run->pages - (skipped - run->first);
		stop = least(stop, skipped + limit);
		piece->pages = next_bit(runs->placed, skipped, stop, true) - skipped;
		return true;
	}
	return false;
}

bool runs_next(struct runs *runs, uint64_t limit, struct piece *piece)
{
	bool found;

	for (; runs->hot_at < runs->hot_count; runs->hot_at++) {
		const struct range *hot = &runs->hot[runs->hot_at];

		if (runs_missing(runs, hot->start, hot->end, limit, piece))
			return true;
	}
	found = runs_missing(runs, runs->cursor, UINT64_MAX, limit, piece);
	/* What was moved to below the cursor is found in a second round. */
	if (!found)
		found = runs_missing(runs, 0, UINT64_MAX, limit, piece);
	if (found)
		runs->cursor = piece->start;
	return found;
}

void runs_settle(struct runs *runs, uint64_t start, uint64_t end)
{
	for (size_t at = seek(runs, start); at < runs->count; at++) {
		const struct run *run = &runs->list[at];
		uint64_t from = most(start, run->start), to = least(end, run_end(run));

		if (run->start >= end)
			break;
		runs->missing -=
			set_bits(runs->placed, run->first + (from - run->start) / PAGE_BYTES,
				 run->first + (to - run->start) / PAGE_BYTES);
	}
}

/* Makes ADDRESS a border between runs. There is room for one more run. */
static void split(struct runs *runs, uint64_t address)
{
	size_t at = seek(runs, address);
	struct run *run;
	uint64_t head;

	if (at == runs->count || runs->list[at].start >= address)
		return;
	run = &runs->list[at];
	memmove(run + 1, run, (runs->count - at) * sizeof(*run));
	runs->count++;
	head = (address - run->start) / PAGE_BYTES;
	run[0].pages = head;
	run[1].start = address;
	run[1].pages -= head;
	run[1].first += head;
	run[1].bytes += head * PAGE_BYTES;
}

/* Takes the runs in [START, END) out of the list, whatever their bits say. */
static int take_out(struct runs *runs, uint64_t start, uint64_t end, struct run **taken,
		    size_t *taken_count, struct pf_error *err)
{
	size_t low, high;
	int code = reserve(runs, 2, err);

	if (code < 0)
		return code;
	split(runs, start);
	split(runs, end);
	low = seek(runs, start);
	for (high = low; high < runs->count && runs->list[high].start < end; high++)
		;
	*taken_count = high - low;
	*taken = NULL;
	if (high == low)
		return 0;
	*taken = malloc(*taken_count * sizeof(**taken));
	if (!*taken)
		return pf_fail(err, -ENOMEM, "cannot move %zu runs of pages", *taken_count);
	memcpy(*taken, &runs->list[low], *taken_count * sizeof(**taken));
	memmove(&runs->list[low], &runs->list[high], (runs->count - high) * sizeof(**taken));
	runs->count -= *taken_count;
	return 0;
}

static int drop(struct runs *runs, uint64_t start, uint64_t end, struct pf_error *err)
{
	struct run *taken;
	size_t count;

	runs_settle(runs, start, end);
	if (take_out(runs, start, end, &taken, &count, err) < 0)
		return err ? err->code : -ENOMEM;
	free(taken);
	return 0;
}

/* The kernel tells of a move twice: REMAP, then UNMAP of the old place. Between the two another
 * thread may have moved something into the old place, which that UNMAP must not take away. */
static bool was_vacated(struct runs *runs, uint64_t start, uint64_t end)
{
	for (size_t at = 0; at < runs->vacated_count; at++)
		if (runs->vacated[at].start == start && runs->vacated[at].end == end) {
			runs->vacated[at] = runs->vacated[--runs->vacated_count];
			return true;
		}
	return false;
}

int runs_unmap(struct runs *runs, uint64_t start, uint64_t end, struct pf_error *err)
{
	if (was_vacated(runs, start, end))
		return 0;
	return drop(runs, start, end, err);
}

int runs_remap(struct runs *runs, uint64_t from, uint64_t to, uint64_t bytes, struct pf_error *err)
{
	struct run *taken;
	size_t count, at;
	int code = take_out(runs, from, from + bytes, &taken, &count, err);

	if (code < 0)
		return code;
	code = drop(runs, to, to + bytes, err);
	if (code == 0)
		code = reserve(runs, count, err);
	if (code < 0) {
		free(taken);
		return code;
	}
	at = seek(runs, to);
	memmove(&runs->list[at + count], &runs->list[at], (runs->count - at) * sizeof(*runs->list));
	for (size_t index = 0; index < count; index++) {
		runs->list[at + index] = taken[index];
		runs->list[at + index].start += to - from;
	}
	runs->count += count;
	free(taken);
	if (runs->vacated_count == RUNS_VACATED)
		memmove(runs->vacated, runs->vacated + 1,
			--runs->vacated_count * sizeof(*runs->vacated));
	runs->vacated[runs->vacated_count++] = (struct range){from, from + bytes};
	return 0;
}
