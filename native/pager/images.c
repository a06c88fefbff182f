// SPDX-License-Identifier: Apache-2.0
/* Owns the finding of pages in image sets and their parents; knows nothing of userfaultfd. */
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
#include "criu_pagemap.h"

/* One image set's view of a process. */
struct level {
	struct pf_pagemap map;
	const unsigned char *bytes;
	char name[64]; /* for errors: how many parents up */
};

struct chain {
	struct level levels[IMAGES_MAX_PARENTS];
	int count;
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

int images_map(int fd, uint64_t needed, struct image_files *files, const unsigned char **bytes,
	       struct pf_error *err)
{
	void *start = mmap(NULL, needed, PROT_READ, MAP_SHARED, fd, 0);
	struct image_file *grown;

	if (start == MAP_FAILED)
		return pf_fail_errno(err, "cannot map %llu bytes of pages",
				     (unsigned long long)needed);
	grown = reallocarray(files->list, files->count + 1, sizeof(*grown));
	if (!grown) {
		munmap(start, needed);
		return pf_fail(err, -ENOMEM, "cannot keep another mapped file");
	}
	files->list = grown;
	files->list[files->count++] = (struct image_file){start, needed};
	*bytes = start;
	return 0;
}

static int map_pages(int directory, struct image_files *files, struct level *level,
		     struct pf_error *err)
{
	uint64_t needed = level->map.present_bytes;
	PF_AUTO_FD int fd = -1;
	char name[32];
	int64_t bytes;

	snprintf(name, sizeof(name), "pages-%u.img", level->map.pages_id);
	if (needed == 0)
		return 0;
	fd = pf_pagemap_open_file(directory, name, &bytes, err);
	if (fd < 0)
		return fd;
	if ((uint64_t)bytes < needed)
		return pf_fail(err, -EINVAL, "%s of the image%s has %lld bytes of %llu", name,
			       level->name, (long long)bytes, (unsigned long long)needed);
	return images_map(fd, needed, files, &level->bytes, err);
}

static int read_level(int directory, int pid, struct image_files *files, struct level *level,
		      struct pf_error *err)
{
	int code = pf_pagemap_read(directory, pid, level->name, &level->map, err);

	return code < 0 ? code : map_pages(directory, files, level, err);
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

static const struct pf_pagemap_entry *find_entry(const struct level *level, uint64_t address)
{
	size_t low = 0, high = level->map.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct pf_pagemap_entry *entry = &level->map.entries[middle];

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
		const struct pf_pagemap_entry *entry =
			depth < chain->count ? find_entry(level, start) : NULL;
		uint64_t into, here;
		int code;

		if (!entry || !(entry->flags & (PF_PAGEMAP_PRESENT | PF_PAGEMAP_IN_PARENT)))
			return pf_fail(err, -ENODATA,
				       "the bytes of the page at %#llx are in no image",
				       (unsigned long long)start);
		into = (start - entry->start) / PAGE_BYTES;
		here = entry->pages - into < pages ? entry->pages - into : pages;
		/* CRIU looks at this flag first: criu/pagemap.c, read_pagemap_page. */
		if (entry->flags & PF_PAGEMAP_IN_PARENT)
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
	for (size_t at = 0; code == 0 && at < chain->levels[0].map.count; at++) {
		const struct pf_pagemap_entry *entry = &chain->levels[0].map.entries[at];

		if (entry->flags & PF_PAGEMAP_LAZY)
			code = resolve(chain, 0, entry->start, entry->pages, runs, err);
	}
	for (int depth = 0; depth < IMAGES_MAX_PARENTS; depth++)
		free(chain->levels[depth].map.entries);
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
