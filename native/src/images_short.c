// SPDX-License-Identifier: Apache-2.0
/* Owns short pagemaps: what a lazy restore reads of an image set. */
#include "podferry/images.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "criu_pagemap.h"

/* CRIU counts a lazy entry's pages on in its pages file and looks at nothing else of it
 * (criu/mem.c, restore_priv_vma_content). */
static bool may_join(const struct pf_pagemap_entry *before, const struct pf_pagemap_entry *entry)
{
	return (entry->flags & PF_PAGEMAP_LAZY) && !(entry->flags & PF_PAGEMAP_IN_PARENT) &&
	       entry->flags == before->flags;
}

static void shorten(struct pf_pagemap *map)
{
	size_t kept = 0;

	for (size_t at = 0; at < map->count; at++) {
		if (kept > 0 && may_join(&map->entries[kept - 1], &map->entries[at]))
			map->entries[kept - 1].pages += map->entries[at].pages;
		else
			map->entries[kept++] = map->entries[at];
	}
	map->count = kept;
}

/* The short one, into a directory that has none of this name. */
static int add_short(int images, int into, int pid, const char *name, struct pf_error *err)
{
	struct pf_pagemap map;
	int code = pf_pagemap_read_full(images, pid, "", &map, err);

	if (code == 0) {
		shorten(&map);
		code = pf_pagemap_write(into, name, &map, err);
	}
	free(map.entries);
	return code;
}

static bool is_image(const char *name)
{
	size_t length = strlen(name);

	return length > 4 && strcmp(name + length - 4, ".img") == 0;
}

static int add_to_view(int images, int view, const char *name, struct pf_error *err)
{
	int pid = pf_pagemap_pid(name);

	if (!is_image(name))
		return 0;
	if (pid) {
		if (unlinkat(view, name, 0) < 0 && errno != ENOENT)
			return pf_fail_errno(err, "cannot replace %s", name);
		return add_short(images, view, pid, name, err);
	}
	if (linkat(images, name, view, name, 0) == 0)
		return 0;
	if (errno != EEXIST || unlinkat(view, name, 0) < 0 ||
	    linkat(images, name, view, name, 0) < 0)
		return pf_fail_errno(err, "cannot link %s", name);
	return 0;
}

static int shorten_in_place(int images, int same, const char *name, struct pf_error *err)
{
	static const char fresh[] = "short-pagemap.new";
	char full[PF_PAGEMAP_NAME_BYTES];
	int pid = pf_pagemap_pid(name), code;

	if (!pid)
		return 0;
	pf_pagemap_full_name(pid, full);
	if (linkat(images, name, same, full, 0) < 0)
		return errno == EEXIST ? 0 : pf_fail_errno(err, "cannot keep %s", name);
	if (unlinkat(same, fresh, 0) < 0 && errno != ENOENT)
		return pf_fail_errno(err, "cannot replace %s", fresh);
	code = add_short(images, same, pid, fresh, err);
	if (code == 0 && renameat(same, fresh, same, name) < 0)
		code = pf_fail_errno(err, "cannot name %s", name);
	if (code < 0)
		unlinkat(same, full, 0);
	return code;
}

static int for_each(int images, int other,
		    int (*work)(int images, int other, const char *name, struct pf_error *err),
		    struct pf_error *err)
{
	DIR *directory = pf_pagemap_list(images, err);
	struct dirent *entry;
	int code = 0;

	if (!directory)
		return err->code;
	while (code == 0 && (entry = readdir(directory)))
		code = work(images, other, entry->d_name, err);
	closedir(directory);
	return code;
}

int pf_images_view(const char *images, const char *view, struct pf_error *err)
{
	PF_AUTO_FD int from = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	PF_AUTO_FD int into = -1;

	if (from < 0)
		return pf_fail_errno(err, "cannot open the images %s", images);
	if (mkdir(view, 0700) < 0 && errno != EEXIST)
		return pf_fail_errno(err, "cannot make %s", view);
	into = open(view, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (into < 0)
		return pf_fail_errno(err, "cannot open %s", view);
	return for_each(from, into, add_to_view, err);
}

int pf_images_shorten(const char *images, struct pf_error *err)
{
	PF_AUTO_FD int directory = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (directory < 0)
		return pf_fail_errno(err, "cannot open the images %s", images);
	return for_each(directory, directory, shorten_in_place, err);
}
