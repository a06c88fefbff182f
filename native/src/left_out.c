// SPDX-License-Identifier: Apache-2.0
/* Owns adding to an image's pagemap the pages that CRIU's dump has left out. */
#include "left_out.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "criu_pagemap.h"
#include "podferry/images.h"

#define FILE_BYTES_MAX ((int64_t)1 << 30)

static int read_file(const char *path, unsigned char **bytes, size_t *size, struct pf_error *err)
{
	PF_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat status;

	if (fd < 0 || fstat(fd, &status) < 0)
		return pf_fail_errno(err, "cannot open %s", path);
	if (status.st_size > FILE_BYTES_MAX)
		return pf_fail(err, -EFBIG, "%s has %lld bytes", path, (long long)status.st_size);
	*size = (size_t)status.st_size;
	*bytes = malloc(*size + 1);
	if (!*bytes)
		return pf_fail(err, -ENOMEM, "cannot read %s", path);
	if (pread(fd, *bytes, *size, 0) != status.st_size)
		return pf_fail_errno(err, "cannot read %s", path);
	return 0;
}

/* Adds the regions of one head; each begins where the one before has ended at the earliest. */
static int add_regions(const struct pf_left_out_region *regions, uint64_t count, uint64_t *told,
		       struct pf_pagemap *map, struct pf_error *err)
{
	for (uint64_t at = 0; at < count; at++) {
		uint64_t start = regions[at].start > *told ? regions[at].start : *told;

		if (regions[at].start % PF_PAGEMAP_PAGE_BYTES ||
		    regions[at].end % PF_PAGEMAP_PAGE_BYTES ||
		    regions[at].end > PF_PAGEMAP_END_OF_ADDRESSES)
			return pf_fail(err, -EINVAL, "what CRIU has left out is written wrongly");
		if (start >= regions[at].end)
			continue;
		map->entries[map->count++] = (struct pf_pagemap_entry){
			.start = start,
			.pages = (regions[at].end - start) / PF_PAGEMAP_PAGE_BYTES,
			.flags = PF_PAGEMAP_LAZY};
		*told = regions[at].end;
	}
	return 0;
}

static int add_all(const unsigned char *bytes, size_t size, int pid, struct pf_pagemap *map,
		   struct pf_error *err)
{
	/* Mappings are scanned from low addresses to high, long ones in several steps. */
	uint64_t told = 0;
	size_t at = 0;
	int code = 0;

	while (code == 0 && at < size) {
		struct pf_left_out_head head;
		const unsigned char *regions = bytes + at + sizeof(head);

		if (size - at < sizeof(head))
			return pf_fail(err, -EINVAL, "what CRIU has left out is cut off");
		memcpy(&head, bytes + at, sizeof(head));
		at += sizeof(head);
		if (head.magic != PF_LEFT_OUT_MAGIC ||
		    head.count > (size - at) / sizeof(struct pf_left_out_region))
			return pf_fail(err, -EINVAL, "what CRIU has left out is written wrongly");
		at += head.count * sizeof(struct pf_left_out_region);
		if (head.pid == pid)
			code = add_regions((const void *)regions, head.count, &told, map, err);
	}
	return code;
}

static int by_start(const void *left, const void *right)
{
	const struct pf_pagemap_entry *one = left, *other = right;

	return one->start < other->start ? -1 : one->start > other->start;
}

/* Pages that CRIU keeps in a file have their order there, which is that of their addresses. */
static int merge(struct pf_pagemap *map, struct pf_error *err)
{
	uint64_t end = 0;

	qsort(map->entries, map->count, sizeof(*map->entries), by_start);
	for (size_t at = 0; at < map->count; at++) {
		const struct pf_pagemap_entry *entry = &map->entries[at];

		if (entry->start < end)
			return pf_fail(err, -EINVAL, "CRIU has both dumped and left out %#llx",
				       (unsigned long long)entry->start);
		end = entry->start + entry->pages * PF_PAGEMAP_PAGE_BYTES;
	}
	return 0;
}

int pf_images_add_left_out(const char *images, const char *path, int pid, int image_pid,
			   uint64_t *pages, struct pf_error *err)
{
	static const char fresh[] = "whole-pagemap.new";
	PF_AUTO_FD int directory = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	PF_AUTO_FREE unsigned char *bytes = NULL;
	char name[PF_PAGEMAP_NAME_BYTES];
	struct pf_pagemap map = {0};
	struct pf_pagemap_entry *grown;
	size_t size = 0, before = 0;
	int code;

	if (directory < 0)
		return pf_fail_errno(err, "cannot open the images %s", images);
	code = read_file(path, &bytes, &size, err);
	if (code < 0 || size == 0)
		return code;
	code = pf_pagemap_read(directory, image_pid, "", &map, err);
	if (code == 0) {
		grown = reallocarray(map.entries,
				     map.count + size / sizeof(struct pf_left_out_region) + 1,
				     sizeof(*grown));
		before = map.count;
		if (grown)
			map.entries = grown;
		code = grown ? add_all(bytes, size, pid, &map, err)
			     : pf_fail(err, -ENOMEM, "no memory for the pagemap");
	}
	for (size_t at = before; code == 0 && at < map.count; at++)
		*pages += map.entries[at].pages;
	if (code == 0)
		code = merge(&map, err);
	pf_pagemap_name(image_pid, name);
	if (code == 0 && unlinkat(directory, fresh, 0) < 0 && errno != ENOENT)
		code = pf_fail_errno(err, "cannot replace %s", fresh);
	if (code == 0)
		code = pf_pagemap_write(directory, fresh, &map, err);
	if (code == 0 && renameat(directory, fresh, directory, name) < 0)
		code = pf_fail_errno(err, "cannot name %s", name);
	free(map.entries);
	return code;
}
