// SPDX-License-Identifier: Apache-2.0
/* Owns the reading of CRIU's page images; knows nothing of userfaultfd. The formats are those of
 * CRIU 4.2's images/pagemap.proto, criu/include/magic.h and criu/pagemap.c. */
#include "images.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cleanup.h"

struct entry {
	uint64_t start;
	uint64_t pages;
	uint64_t offset; /* in the pages file, if present */
	uint32_t flags;
};

/* One image set's view of a process. */
struct level {
	struct entry *entries;
	size_t count;
	const unsigned char *bytes;
	char name[64]; /* for errors: how many parents up */
};

struct chain {
	struct level levels[IMAGES_MAX_PARENTS];
	int count;
};

/* What is left to parse of a protobuf message. */
struct cursor {
	const unsigned char *at, *end;
};

static int open_below(int root, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = flags | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | resolve};

	return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

int images_open_root(const char *path, struct pf_error *err)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? pf_fail_errno(err, "cannot open the image directory %s", path) : fd;
}

/* Opens the regular file NAME of the directory. */
static int open_file(int directory, const char *name, int64_t *bytes, struct pf_error *err)
{
	/* Not to hang on a fifo that somebody has put there. */
	int fd = open_below(directory, name, O_RDONLY | O_NONBLOCK, RESOLVE_NO_SYMLINKS);
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

	if (!fixed32(cursor, &common) || common != IMAGES_COMMON_MAGIC ||
	    !fixed32(cursor, &magic) || magic != IMAGES_PAGEMAP_MAGIC || !message(cursor, &head))
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

static bool parse_entry(struct cursor *cursor, struct entry *entry)
{
	struct cursor inside;
	uint64_t number, value, compat_pages = 0;
	bool has_flags = false, in_parent = false;

	*entry = (struct entry){0};
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
		entry->flags |= IMAGES_IN_PARENT;
	else if (!has_flags)
		entry->flags = IMAGES_PRESENT;
	if (!entry->pages)
		entry->pages = compat_pages;
	return entry->start % PAGE_BYTES == 0 && entry->pages > 0 &&
	       entry->start < IMAGES_END_OF_ADDRESSES &&
	       entry->pages <= (IMAGES_END_OF_ADDRESSES - entry->start) / PAGE_BYTES;
}

/* Parses all entries; PAGES_BYTES gets how long the pages file must be. */
static int parse_entries(struct cursor *cursor, struct level *level, uint64_t *pages_bytes,
			 struct pf_error *err)
{
	/* An entry has a length, an address and a number at least: 8 bytes. */
	size_t room = (size_t)(cursor->end - cursor->at) / 8 + 1;
	uint64_t end = 0;

	level->entries = calloc(room, sizeof(*level->entries));
	if (!level->entries)
		return pf_fail(err, -ENOMEM, "cannot keep the pagemap of the image%s", level->name);
	while (cursor->at < cursor->end) {
		struct entry *entry = &level->entries[level->count];

		if (level->count == room || !parse_entry(cursor, entry) || entry->start < end)
			return pf_fail(err, -EINVAL,
				       "entry %zu of the pagemap of the image%s is damaged",
				       level->count, level->name);
		end = entry->start + entry->pages * PAGE_BYTES;
		entry->offset = *pages_bytes;
		if (entry->flags & IMAGES_PRESENT)
			*pages_bytes += entry->pages * PAGE_BYTES;
		level->count++;
	}
	return 0;
}

static int map_pages(int directory, uint32_t id, uint64_t needed, struct image_files *files,
		     struct level *level, struct pf_error *err)
{
	PF_AUTO_FD int fd = -1;
	struct image_file *grown;
	char name[32];
	int64_t bytes;
	void *start;

	snprintf(name, sizeof(name), "pages-%u.img", id);
	if (needed == 0)
		return 0;
	fd = open_file(directory, name, &bytes, err);
	if (fd < 0)
		return fd;
	if ((uint64_t)bytes < needed)
		return pf_fail(err, -EINVAL, "%s of the image%s has %lld bytes of %llu", name,
			       level->name, (long long)bytes, (unsigned long long)needed);
	start = mmap(NULL, needed, PROT_READ, MAP_SHARED, fd, 0);
	if (start == MAP_FAILED)
		return pf_fail_errno(err, "cannot map %s of the image%s", name, level->name);
	grown = reallocarray(files->list, files->count + 1, sizeof(*grown));
	if (!grown) {
		munmap(start, needed);
		return pf_fail(err, -ENOMEM, "cannot keep another mapped file");
	}
	files->list = grown;
	files->list[files->count++] = (struct image_file){start, needed};
	level->bytes = start;
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

static int read_level(int directory, int pid, struct image_files *files, struct level *level,
		      struct pf_error *err)
{
	PF_AUTO_FREE unsigned char *buffer = NULL;
	PF_AUTO_FD int fd = -1;
	struct cursor cursor;
	char name[32];
	int64_t bytes;
	uint32_t pages_id;
	uint64_t pages_bytes = 0;
	int code;

	snprintf(name, sizeof(name), "pagemap-%d.img", pid);
	fd = open_file(directory, name, &bytes, err);
	if (fd < 0)
		return fd;
	if (bytes > IMAGES_MAX_PAGEMAP_BYTES)
		return pf_fail(err, -EFBIG, "%s of the image%s has %lld bytes", name, level->name,
			       (long long)bytes);
	buffer = malloc((size_t)bytes + 1);
	if (!buffer)
		return pf_fail(err, -ENOMEM, "cannot read %s", name);
	code = read_whole(fd, buffer, (size_t)bytes, name, err);
	if (code < 0)
		return code;
	cursor = (struct cursor){buffer, buffer + bytes};
	if (!parse_head(&cursor, &pages_id))
		return pf_fail(err, -EINVAL, "%s of the image%s has no pagemap head", name,
			       level->name);
	code = parse_entries(&cursor, level, &pages_bytes, err);
	if (code < 0)
		return code;
	return map_pages(directory, pages_id, pages_bytes, files, level, err);
}

/* Reads the set and its parents. A parent without this process ends the chain, as in CRIU. */
static int read_chain(int root, const char *set, int pid, struct image_files *files,
		      struct chain *chain, struct pf_error *err)
{
	char path[PATH_MAX];
	size_t used = (size_t)snprintf(path, sizeof(path), "%s", set);

	for (; chain->count < IMAGES_MAX_PARENTS; chain->count++) {
		struct level *level = &chain->levels[chain->count];
		PF_AUTO_FD int directory = -1;
		int code;

		if (used >= sizeof(path))
			return pf_fail(err, -ENAMETOOLONG, "the image set's name is too long");
		directory = open_below(root, path, O_RDONLY | O_DIRECTORY, 0);
		if (directory < 0 && errno == ENOENT && chain->count > 0)
			return 0;
		if (directory < 0)
			return pf_fail_errno(err, "cannot open the image set %s below its root",
					     path);
		if (chain->count > 0)
			snprintf(level->name, sizeof(level->name), "'s parent %d", chain->count);
		code = read_level(directory, pid, files, level, err);
		if (code == -ENOENT && chain->count > 0)
			return 0;
		if (code < 0)
			return code;
		used += (size_t)snprintf(path + used, sizeof(path) - used, "/parent");
	}
	return pf_fail(err, -ELOOP, "the image set %s has more than %d parents", set,
		       IMAGES_MAX_PARENTS - 1);
}

static const struct entry *find_entry(const struct level *level, uint64_t address)
{
	size_t low = 0, high = level->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct entry *entry = &level->entries[middle];

		if (address < entry->start)
			high = middle;
		else if (address >= entry->start + entry->pages * PAGE_BYTES)
			low = middle + 1;
		else
			return entry;
	}
	return NULL;
}

/* Adds [START, START + PAGES), finding the bytes in the set at DEPTH or, piece by piece, above. */
static int resolve(const struct chain *chain, int depth, uint64_t start, uint64_t pages,
		   struct runs *runs, struct pf_error *err)
{
	while (pages > 0) {
		const struct level *level = &chain->levels[depth];
		const struct entry *entry = depth < chain->count ? find_entry(level, start) : NULL;
		uint64_t into, here;
		int code;

		if (!entry || !(entry->flags & (IMAGES_PRESENT | IMAGES_IN_PARENT)))
			return pf_fail(err, -ENODATA,
				       "the bytes of the page at %#llx are in no image",
				       (unsigned long long)start);
		into = (start - entry->start) / PAGE_BYTES;
		here = entry->pages - into < pages ? entry->pages - into : pages;
		/* CRIU looks at this flag first: criu/pagemap.c, read_pagemap_page. */
		if (entry->flags & IMAGES_IN_PARENT)
			code = resolve(chain, depth + 1, start, here, runs, err);
		else
			code = runs_add(runs, start, here,
					level->bytes + entry->offset + into * PAGE_BYTES, err);
		if (code < 0)
			return code;
		start += here * PAGE_BYTES;
		pages -= here;
	}
	return 0;
}

int images_read(int root, const char *set, int pid, struct image_files *files, struct runs *runs,
		struct pf_error *err)
{
	struct chain *chain = calloc(1, sizeof(*chain));
	int code;

	if (!chain)
		return pf_fail(err, -ENOMEM, "cannot read the images of process %d", pid);
	code = read_chain(root, set, pid, files, chain, err);
	for (size_t at = 0; code == 0 && at < chain->levels[0].count; at++) {
		const struct entry *entry = &chain->levels[0].entries[at];

		if (entry->flags & IMAGES_LAZY)
			code = resolve(chain, 0, entry->start, entry->pages, runs, err);
	}
	for (int depth = 0; depth < IMAGES_MAX_PARENTS; depth++)
		free(chain->levels[depth].entries);
	free(chain);
	return code < 0 ? code : runs_close(runs, err);
}

void images_close(struct image_files *files)
{
	for (size_t at = 0; at < files->count; at++)
		munmap(files->list[at].start, files->list[at].bytes);
	free(files->list);
	*files = (struct image_files){0};
}
