// SPDX-License-Identifier: Apache-2.0
/* Owns the reading of CRIU's pagemaps. The formats are those of CRIU 4.2's images/pagemap.proto,
 * criu/include/magic.h and criu/pagemap.c. */
#include "criu_pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cleanup.h"

/* What is left to parse of a protobuf message. */
struct cursor {
	const unsigned char *at, *end;
};

int pf_pagemap_open_file(int directory, const char *name, int64_t *bytes, struct pf_error *err)
{
	/* Not to hang on a fifo that somebody has put there. */
	struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS |
					  RESOLVE_NO_SYMLINKS};
	int fd = (int)syscall(SYS_openat2, directory, name, &how, sizeof(how));
	struct stat status;

	if (fd < 0)
		return pf_fail_errno(err, "cannot open the image %s", name);
	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode)) {
		close(fd);
		return pf_fail(err, -EINVAL, "the image %s is not a regular file", name);
	}
	*bytes = status.st_size;
	return fd;
}

static bool varint(struct cursor *cursor, uint64_t *value)
{
	*value = 0;
	for (int shift = 0; shift < 64 && cursor->at < cursor->end; shift += 7) {
		unsigned char byte = *cursor->at++;

		*value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

/* Gets the next field; VALUE is set for wire type 0 only, other types are passed over. */
static bool field(struct cursor *cursor, uint64_t *number, uint64_t *value)
{
	uint64_t key, skip = 0;

	if (!varint(cursor, &key))
		return false;
	*number = key >> 3;
	switch (key & 7) {
	case 0:
		return varint(cursor, value);
	case 1:
		skip = 8;
		break;
	case 2:
		if (!varint(cursor, &skip))
			return false;
		break;
	case 5:
		skip = 4;
		break;
	default:
		return false;
	}
	*number = 0;
	if (skip > (uint64_t)(cursor->end - cursor->at))
		return false;
	cursor->at += skip;
	return true;
}

static bool fixed32(struct cursor *cursor, uint32_t *value)
{
	if (cursor->end - cursor->at < 4)
		return false;
	memcpy(value, cursor->at, 4); /* CRIU writes the machine's own order */
	cursor->at += 4;
	return true;
}

/* A message with its length in front. */
static bool message(struct cursor *cursor, struct cursor *inside)
{
	uint32_t bytes;

	if (!fixed32(cursor, &bytes) || bytes > (uint64_t)(cursor->end - cursor->at))
		return false;
	*inside = (struct cursor){cursor->at, cursor->at + bytes};
	cursor->at += bytes;
	return true;
}

static bool parse_head(struct cursor *cursor, uint32_t *pages_id)
{
	uint32_t common, magic;
	struct cursor head;
	uint64_t number, value;
	bool found = false;

	if (!fixed32(cursor, &common) || common != PF_PAGEMAP_COMMON_MAGIC ||
	    !fixed32(cursor, &magic) || magic != PF_PAGEMAP_MAGIC || !message(cursor, &head))
		return false;
	while (head.at < head.end) {
		if (!field(&head, &number, &value))
			return false;
		if (number == 1 && value <= UINT32_MAX) {
			*pages_id = (uint32_t)value;
			found = true;
		}
	}
	return found;
}

static bool parse_entry(struct cursor *cursor, struct pf_pagemap_entry *entry)
{
	struct cursor inside;
	uint64_t number, value, compat_pages = 0;
	bool has_flags = false, in_parent = false;

	*entry = (struct pf_pagemap_entry){0};
	if (!message(cursor, &inside))
		return false;
	while (inside.at < inside.end) {
		if (!field(&inside, &number, &value))
			return false;
		if (number == 1)
			entry->start = value;
		else if (number == 2)
			compat_pages = value;
		else if (number == 3)
			in_parent = value != 0;
		else if (number == 4) {
			entry->flags = (uint32_t)value;
			has_flags = true;
		} else if (number == 5)
			entry->pages = value;
	}
	/* Older images: criu/pagemap.c, init_compat_pagemap_entry. */
	if (in_parent)
		entry->flags |= PF_PAGEMAP_IN_PARENT;
	else if (!has_flags)
		entry->flags = PF_PAGEMAP_PRESENT;
	if (!entry->pages)
		entry->pages = compat_pages;
	return entry->start % PF_PAGEMAP_PAGE_BYTES == 0 && entry->pages > 0 &&
	       entry->start < PF_PAGEMAP_END_OF_ADDRESSES &&
	       entry->pages <= (PF_PAGEMAP_END_OF_ADDRESSES - entry->start) / PF_PAGEMAP_PAGE_BYTES;
}

static int parse_entries(struct cursor *cursor, struct pf_pagemap *map, const char *of,
			 struct pf_error *err)
{
	/* An entry has a length, an address and a number at least: 8 bytes. */
	size_t room = (size_t)(cursor->end - cursor->at) / 8 + 1;
	uint64_t end = 0;

	map->entries = calloc(room, sizeof(*map->entries));
	if (!map->entries)
		return pf_fail(err, -ENOMEM, "cannot keep the pagemap of the image%s", of);
	while (cursor->at < cursor->end) {
		struct pf_pagemap_entry *entry = &map->entries[map->count];

		if (map->count == room || !parse_entry(cursor, entry) || entry->start < end)
			return pf_fail(err, -EINVAL,
				       "entry %zu of the pagemap of the image%s is damaged",
				       map->count, of);
		end = entry->start + entry->pages * PF_PAGEMAP_PAGE_BYTES;
		entry->offset = map->present_bytes;
		if (entry->flags & PF_PAGEMAP_PRESENT)
			map->present_bytes += entry->pages * PF_PAGEMAP_PAGE_BYTES;
		map->count++;
	}
	return 0;
}

static int read_whole(int fd, unsigned char *buffer, size_t bytes, const char *name,
		      struct pf_error *err)
{
	for (size_t got = 0; got < bytes;) {
		ssize_t more = read(fd, buffer + got, bytes - got);

		if (more < 0)
			return pf_fail_errno(err, "cannot read %s", name);
		if (more == 0)
			return pf_fail(err, -EINVAL, "%s has become shorter", name);
		got += (size_t)more;
	}
	return 0;
}

static int parse(unsigned char *buffer, size_t bytes, const char *name, const char *of,
		 struct pf_pagemap *map, struct pf_error *err)
{
	struct cursor cursor = {buffer, buffer + bytes};

	if (!parse_head(&cursor, &map->pages_id))
		return pf_fail(err, -EINVAL, "%s of the image%s has no pagemap head", name, of);
	return parse_entries(&cursor, map, of, err);
}

void pf_pagemap_name(int pid, char name[PF_PAGEMAP_NAME_BYTES])
{
	snprintf(name, PF_PAGEMAP_NAME_BYTES, "pagemap-%d.img", pid);
}

void pf_pagemap_full_name(int pid, char name[PF_PAGEMAP_NAME_BYTES])
{
	snprintf(name, PF_PAGEMAP_NAME_BYTES, "full-pagemap-%d.img", pid);
}

int pf_pagemap_pid(const char *name)
{
	char again[PF_PAGEMAP_NAME_BYTES];
	int pid;

	if (sscanf(name, "pagemap-%d.img", &pid) != 1 || pid <= 0)
		return 0;
	pf_pagemap_name(pid, again);
	return strcmp(again, name) == 0 ? pid : 0;
}

DIR *pf_pagemap_list(int images, struct pf_error *err)
{
	int copy = openat(images, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *directory = copy < 0 ? NULL : fdopendir(copy);

	if (!directory) {
		pf_fail_errno(err, "cannot list the images");
		if (copy >= 0)
			close(copy);
	}
	return directory;
}

static int read_named(int directory, const char *name, const char *of, struct pf_pagemap *map,
		      struct pf_error *err)
{
	PF_AUTO_FREE unsigned char *buffer = NULL;
	PF_AUTO_FD int fd = -1;
	int64_t bytes;
	int code;

	*map = (struct pf_pagemap){0};
	fd = pf_pagemap_open_file(directory, name, &bytes, err);
	if (fd < 0)
		return fd;
	if (bytes > PF_PAGEMAP_MAX_BYTES)
		return pf_fail(err, -EFBIG, "%s of the image%s has %lld bytes", name, of,
			       (long long)bytes);
	buffer = malloc((size_t)bytes + 1);
	if (!buffer)
		return pf_fail(err, -ENOMEM, "cannot read %s", name);
	code = read_whole(fd, buffer, (size_t)bytes, name, err);
	return code < 0 ? code : parse(buffer, (size_t)bytes, name, of, map, err);
}

int pf_pagemap_read(int directory, int pid, const char *of, struct pf_pagemap *map,
		    struct pf_error *err)
{
	char name[PF_PAGEMAP_NAME_BYTES];

	pf_pagemap_name(pid, name);
	return read_named(directory, name, of, map, err);
}

int pf_pagemap_read_full(int directory, int pid, const char *of, struct pf_pagemap *map,
			 struct pf_error *err)
{
	char name[PF_PAGEMAP_NAME_BYTES];

	pf_pagemap_full_name(pid, name);
	if (faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return pf_pagemap_read(directory, pid, of, map, err);
	return read_named(directory, name, of, map, err);
}
