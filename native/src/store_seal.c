// SPDX-License-Identifier: Apache-2.0
/* Owns the end of a store: what CRIU's image says exists is compared with what has come, and the
 * pager's index written. In the freeze: no page is looked at. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "criu_pagemap.h"
#include "store.h"
#include "store_index.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Older rounds than these are no hint of what a process will touch first. */
#define HOT_ROUNDS 8u

struct list {
	void *items;
	size_t count, room;
};

struct index {
	struct pf_index_head head;
	struct list runs, hot;
};

/* A place for one more item; NULL without memory. */
static void *append(struct list *list, size_t item_bytes)
{
	if (list->count == list->room) {
		size_t room = list->room ? list->room * 2 : 256;
		void *grown = reallocarray(list->items, room, item_bytes);

		if (!grown)
			return NULL;
		list->items = grown;
		list->room = room;
	}
	return (char *)list->items + list->count++ * item_bytes;
}

static bool add_run(struct index *index, uint64_t start, uint64_t pages, uint64_t offset)
{
	struct pf_index_run *runs = index->runs.items, *run;

	index->head.pages += pages;
	if (offset + pages * PF_PAGE_BYTES > index->head.data_bytes)
		index->head.data_bytes = offset + pages * PF_PAGE_BYTES;
	if (index->runs.count) {
		run = &runs[index->runs.count - 1];
		if (run->start + run->pages * PF_PAGE_BYTES == start &&
		    run->offset + run->pages * PF_PAGE_BYTES == offset) {
			run->pages += pages;
			return true;
		}
	}
	run = append(&index->runs, sizeof(*run));
	if (run)
		*run = (struct pf_index_run){start, pages, offset};
	return run != NULL;
}

static bool add_hot(struct index *index, uint64_t start, uint64_t pages)
{
	struct pf_index_hot *hot = index->hot.items, *last;

	if (index->hot.count) {
		last = &hot[index->hot.count - 1];
		if (last->start + last->pages * PF_PAGE_BYTES == start) {
			last->pages += pages;
			return true;
		}
	}
	last = append(&index->hot, sizeof(*last));
	if (last)
		*last = (struct pf_index_hot){start, pages};
	return last != NULL;
}

/* The next bits that are set without a gap, taken out of BITS. */
static unsigned take_bits(uint64_t *bits, unsigned *first)
{
	uint64_t rest;
	unsigned count;

	*first = (unsigned)__builtin_ctzll(*bits);
	rest = *bits >> *first;
	count = ~rest ? (unsigned)__builtin_ctzll(~rest) : PF_BLOCK_PAGES;
	*bits = count == PF_BLOCK_PAGES ? 0 : *bits & ~((((uint64_t)1 << count) - 1) << *first);
	return count;
}

/* The wanted pages of one block. */
static int add_block(struct index *index, const struct pf_region *region,
		     const struct pf_block *block, uint64_t start, uint64_t wanted,
		     struct pf_error *err)
{
	uint64_t missing = block ? wanted & ~(block->data | block->zero) : wanted;
	uint64_t data;
	unsigned first, count;

	if (missing)
		return pf_fail(err, -ENODATA, "the page at %#llx of process %d never came",
			       (unsigned long long)start +
				       (uint64_t)__builtin_ctzll(missing) * PF_PAGE_BYTES,
			       index->head.pid);
	index->head.zero_pages += (uint64_t)__builtin_popcountll(wanted & block->zero);
	data = wanted & block->data;
	while (data) {
		uint64_t offset = region->number * PF_REGION_BYTES + start % PF_REGION_BYTES;

		count = take_bits(&data, &first);
		if (!add_run(index, start + (uint64_t)first * PF_PAGE_BYTES, count,
			     offset + (uint64_t)first * PF_PAGE_BYTES))
			return pf_fail(err, -ENOMEM, "no memory for the index");
	}
	return 0;
}

static int add_entry(struct pf_store *store, struct pf_process *process, struct index *index,
		     const struct pf_pagemap_entry *entry, struct pf_error *err)
{
	uint64_t page = entry->start / PF_PAGE_BYTES, left = entry->pages;

	if (entry->flags & (PF_PAGEMAP_PRESENT | PF_PAGEMAP_IN_PARENT))
		return pf_fail(err, -EINVAL,
			       "the image of process %d was not dumped without its memory",
			       index->head.pid);
	while (left > 0) {
		uint64_t from = page % PF_BLOCK_PAGES, start = (page - from) * PF_PAGE_BYTES;
		uint64_t here = PF_BLOCK_PAGES - from < left ? PF_BLOCK_PAGES - from : left;
		uint64_t mask = here == PF_BLOCK_PAGES ? ~(uint64_t)0 : ((uint64_t)1 << here) - 1;
		struct pf_region *region = NULL;
		struct pf_block *block = NULL;
		int code;

		if (process)
			block = pf_process_block(&store->table, process, start, false, &region);
		code = add_block(index, region, block, start, mask << from, err);
		if (code < 0)
			return code;
		page += here;
		left -= here;
	}
	return 0;
}

/* ---- what the process is likely to touch first */

struct candidate {
	uint64_t start;
	const struct pf_block *block;
};

static bool find_candidates(const struct pf_store *store, const struct pf_process *process,
			    struct list *found)
{
	for (size_t at = 0; at < process->count; at++)
		for (unsigned number = 0; number < PF_REGION_BLOCKS; number++) {
			const struct pf_region *region = process->regions[at];
			const struct pf_block *block = region->blocks[number];
			struct candidate *candidate;

			if (!block || block->round <= store->first_round)
				continue;
			candidate = append(found, sizeof(*candidate));
			if (!candidate)
				return false;
			*candidate =
				(struct candidate){region->start + number * PF_BLOCK_BYTES, block};
		}
	return true;
}

static bool add_hot_bits(struct index *index, uint64_t start, uint64_t bits)
{
	unsigned first, count;

	while (bits) {
		count = take_bits(&bits, &first);
		if (!add_hot(index, start + (uint64_t)first * PF_PAGE_BYTES, count))
			return false;
	}
	return true;
}

/* What came last comes first; then what came more than once. */
static bool add_recent(const struct pf_store *store, const struct pf_process *process,
		       struct index *index)
{
	struct list found = {0};
	bool done = find_candidates(store, process, &found);
	const struct candidate *list = found.items;

	for (uint32_t age = 0; done && age < HOT_ROUNDS && store->round - age > store->first_round;
	     age++)
		for (size_t at = 0; done && at < found.count; at++)
			if (list[at].block->round == store->round - age)
				done = add_hot_bits(index, list[at].start, list[at].block->recent);
	for (size_t at = 0; done && at < found.count; at++)
		done = add_hot_bits(index, list[at].start,
				    list[at].block->again & ~list[at].block->recent);
	free(found.items);
	return done;
}

/* ---- files */

static int write_index(const struct pf_store *store, struct index *index, struct pf_error *err)
{
	size_t runs_bytes = index->runs.count * sizeof(struct pf_index_run);
	size_t hot_bytes = index->hot.count * sizeof(struct pf_index_hot);
	char name[PF_STORE_NAME_BYTES], fresh[PF_STORE_NAME_BYTES + 8];
	PF_AUTO_FREE char *bytes = malloc(sizeof(index->head) + runs_bytes + hot_bytes);
	PF_AUTO_FD int fd = -1;
	char *at = bytes;
	XXH3_state_t state;
	ssize_t written;

	if (!bytes)
		return pf_fail(err, -ENOMEM, "no memory for the index");
	index->head.runs = index->runs.count;
	index->head.hot = index->hot.count;
	at += sizeof(index->head);
	if (runs_bytes)
		memcpy(at, index->runs.items, runs_bytes);
	at += runs_bytes;
	if (hot_bytes)
		memcpy(at, index->hot.items, hot_bytes);
	at += hot_bytes;
	XXH3_64bits_reset(&state);
	XXH3_64bits_update(&state, &index->head, offsetof(struct pf_index_head, sum));
	XXH3_64bits_update(&state, bytes + sizeof(index->head), runs_bytes + hot_bytes);
	index->head.sum = XXH3_64bits_digest(&state);
	memcpy(bytes, &index->head, sizeof(index->head));
	pf_store_index_name(index->head.pid, name);
	snprintf(fresh, sizeof(fresh), "%s.new", name);
	fd = openat(store->directory, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
		    0600);
	if (fd < 0)
		return pf_fail_errno(err, "cannot make %s", fresh);
	written = write(fd, bytes, (size_t)(at - bytes));
	if (written != at - bytes)
		return pf_fail_errno(err, "cannot write %s", fresh);
	if (renameat(store->directory, fresh, store->directory, name) < 0)
		return pf_fail_errno(err, "cannot name %s", name);
	return 0;
}

/* A process may have no memory of its own to fetch: its pager still asks for an index, and for a
 * data file if there is something in it. */
static int seal_process(struct pf_store *store, int images, int pid, struct pf_store_sealed *out,
			struct pf_error *err)
{
	struct index index = {.head = {.pid = pid}};
	struct pf_process *process = pf_table_process(&store->table, pid, false);
	struct pf_pagemap map;
	int code = pf_pagemap_read_full(images, pid, "", &map, err);

	memcpy(index.head.magic, PF_INDEX_MAGIC, sizeof(index.head.magic));
	for (size_t at = 0; code == 0 && at < map.count; at++)
		if (map.entries[at].flags & PF_PAGEMAP_LAZY)
			code = add_entry(store, process, &index, &map.entries[at], err);
	if (code == 0 && process && !add_recent(store, process, &index))
		code = pf_fail(err, -ENOMEM, "no memory for the index");
	if (code == 0)
		code = write_index(store, &index, err);
	for (size_t at = 0; at < index.hot.count; at++)
		out->recent_pages += ((struct pf_index_hot *)index.hot.items)[at].pages;
	out->processes++;
	out->pages += index.head.pages;
	out->zero_pages += index.head.zero_pages;
	free(map.entries);
	free(index.runs.items);
	free(index.hot.items);
	return code;
}

static int seal_all(struct pf_store *store, int images, struct pf_store_sealed *out,
		    struct pf_error *err)
{
	DIR *directory = pf_pagemap_list(images, err);
	struct dirent *entry;
	int code = 0;

	if (!directory)
		return err->code;
	while (code == 0 && (entry = readdir(directory))) {
		int pid = pf_pagemap_pid(entry->d_name);

		if (pid)
			code = seal_process(store, images, pid, out, err);
	}
	closedir(directory);
	if (code == 0 && out->processes == 0)
		return pf_fail(err, -ENOENT, "the image has no process");
	out->unused_pages = store->table.counts.pages + store->table.counts.zero_pages -
			    out->pages - out->zero_pages;
	return code;
}

int pf_store_seal(struct pf_store *store, const char *image_dir, struct pf_store_sealed *out,
		  struct pf_error *err)
{
	PF_AUTO_FD int other = -1;
	int code;

	*out = (struct pf_store_sealed){0};
	if (image_dir) {
		other = open(image_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (other < 0)
			return pf_fail_errno(err, "cannot open the images %s", image_dir);
	}
	pthread_mutex_lock(&store->table.lock);
	store->sealed = true;
	while (store->writers > 0)
		pthread_cond_wait(&store->quiet, &store->table.lock);
	code = store->agreed
		       ? seal_all(store, image_dir ? other : store->images, out, err)
		       : pf_fail(err, -ESTALE, "the sender has not confirmed what has come last");
	pthread_mutex_unlock(&store->table.lock);
	return code;
}
