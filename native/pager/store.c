// SPDX-License-Identifier: Apache-2.0
/* Owns the reading of sealed page stores; knows nothing of userfaultfd. */
#include "store.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cleanup.h"
#include "criu_pagemap.h"
#include "store_index.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static bool whole(const struct pf_index_head *head, int64_t bytes, int pid)
{
	uint64_t rest = (uint64_t)bytes - sizeof(*head);
	XXH3_state_t state;

	if (memcmp(head->magic, PF_INDEX_MAGIC, sizeof(head->magic)) != 0 || head->pid != pid ||
	    head->runs > rest / sizeof(struct pf_index_run) ||
	    head->hot > rest / sizeof(struct pf_index_hot) ||
	    head->runs * sizeof(struct pf_index_run) + head->hot * sizeof(struct pf_index_hot) !=
		    rest)
		return false;
	XXH3_64bits_reset(&state);
	XXH3_64bits_update(&state, head, offsetof(struct pf_index_head, sum));
	XXH3_64bits_update(&state, head + 1, rest);
	return XXH3_64bits_digest(&state) == head->sum;
}

static bool in_bounds(uint64_t start, uint64_t pages)
{
	return start % PAGE_BYTES == 0 && pages > 0 && start < PF_PAGEMAP_END_OF_ADDRESSES &&
	       pages <= (PF_PAGEMAP_END_OF_ADDRESSES - start) / PAGE_BYTES;
}

static int add_all(const struct pf_index_head *head, const unsigned char *data, struct runs *runs,
		   struct pf_error *err)
{
	const struct pf_index_run *list = (const struct pf_index_run *)(head + 1);
	const struct pf_index_hot *hot = (const struct pf_index_hot *)(list + head->runs);
	int code = 0;

	for (uint64_t at = 0; code == 0 && at < head->runs; at++) {
		const struct pf_index_run *run = &list[at];

		if (!in_bounds(run->start, run->pages) || run->offset % PAGE_BYTES ||
		    run->offset > head->data_bytes ||
		    run->pages > (head->data_bytes - run->offset) / PAGE_BYTES)
			return pf_fail(err, -EINVAL, "run %llu of the index is impossible",
				       (unsigned long long)at);
		code = runs_add(runs, run->start, run->pages, data + run->offset, err);
	}
	if (code == 0 && runs->pages != head->pages)
		return pf_fail(err, -EINVAL, "the index has other pages than it says");
	for (uint64_t at = 0; code == 0 && at < head->hot; at++) {
		if (!in_bounds(hot[at].start, hot[at].pages))
			return pf_fail(err, -EINVAL, "the index's order is impossible");
		code = runs_add_hot(runs, hot[at].start, hot[at].start + hot[at].pages * PAGE_BYTES,
				    err);
	}
	return code < 0 ? code : runs_close(runs, err);
}

static int map_data(int root, int pid, uint64_t needed, struct image_files *files,
		    const unsigned char **data, struct pf_error *err)
{
	PF_AUTO_FD int fd = -1;
	char name[32];
	int64_t bytes;

	*data = NULL;
	if (needed == 0)
		return 0;
	snprintf(name, sizeof(name), "%d.pages", pid);
	fd = pf_pagemap_open_file(root, name, &bytes, err);
	if (fd < 0)
		return fd;
	if ((uint64_t)bytes < needed)
		return pf_fail(err, -EINVAL, "%s has %lld bytes of %llu", name, (long long)bytes,
			       (unsigned long long)needed);
	return images_map(fd, needed, files, data, err);
}

int store_read(int root, int pid, struct image_files *files, struct runs *runs,
	       struct pf_error *err)
{
	PF_AUTO_MAPPING struct pf_mapping index = {MAP_FAILED, 0};
	PF_AUTO_FD int fd = -1;
	const struct pf_index_head *head;
	const unsigned char *data;
	char name[32];
	int64_t bytes;
	int code;

	snprintf(name, sizeof(name), "%d.index", pid);
	fd = pf_pagemap_open_file(root, name, &bytes, err);
	if (fd < 0)
		return fd;
	if (bytes < (int64_t)sizeof(*head) || bytes > PF_INDEX_MAX_BYTES)
		return pf_fail(err, -EINVAL, "%s has %lld bytes", name, (long long)bytes);
	/* Private: who holds the file open may still write to it. */
	index = (struct pf_mapping){
		mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0),
		(size_t)bytes};
	if (index.start == MAP_FAILED)
		return pf_fail_errno(err, "cannot map %s", name);
	head = index.start;
	if (!whole(head, bytes, pid))
		return pf_fail(err, -EINVAL, "%s is damaged", name);
	code = map_data(root, pid, head->data_bytes, files, &data, err);
	return code < 0 ? code : add_all(head, data, runs, err);
}
