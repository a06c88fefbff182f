/* SPDX-License-Identifier: Apache-2.0 */
/* Reads CRIU's pagemap-PID.img as hostile input. docs/pager.md has the byte layout. */
#pragma once

#include <dirent.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define PF_PAGEMAP_COMMON_MAGIC 0x54564319u /* criu/include/magic.h: IMG_COMMON_MAGIC */
#define PF_PAGEMAP_MAGIC        0x56084025u /* PAGEMAP_MAGIC */
#define PF_PAGEMAP_IN_PARENT    1u          /* criu/include/pagemap.h: PE_PARENT */
#define PF_PAGEMAP_LAZY         2u          /* PE_LAZY */
#define PF_PAGEMAP_PRESENT      4u          /* PE_PRESENT */

#define PF_PAGEMAP_PAGE_BYTES       4096u
#define PF_PAGEMAP_MAX_BYTES        ((int64_t)1 << 30)
#define PF_PAGEMAP_END_OF_ADDRESSES ((uint64_t)1 << 56)

struct pf_pagemap_entry {
	uint64_t start;
	uint64_t pages;
	uint64_t offset; /* in the pages file, if present */
	uint32_t flags;
};

struct pf_pagemap {
	struct pf_pagemap_entry *entries; /* by start, without overlaps; the reader's to free */
	size_t count;
	uint32_t pages_id;
	uint64_t present_bytes; /* how long the pages file must be */
};

/* Opens a regular file of a directory, never through a link. */
int pf_pagemap_open_file(int directory, const char *name, int64_t *bytes, struct pf_error *err);

/* The same as it was dumped, where another one lies in its place by now: pf_images_shorten. */
int pf_pagemap_read_full(int directory, int pid, const char *of, struct pf_pagemap *map,
			 struct pf_error *err);

#define PF_PAGEMAP_NAME_BYTES 32
/* The process whose pagemap a file is; 0: it is none. pagemap-shmem-N.img and such are others. */
int pf_pagemap_pid(const char *name);

/* The files of an image; NULL and the error, or the caller's to close. */
DIR *pf_pagemap_list(int images, struct pf_error *err);

void pf_pagemap_name(int pid, char name[PF_PAGEMAP_NAME_BYTES]);
void pf_pagemap_full_name(int pid, char name[PF_PAGEMAP_NAME_BYTES]);

/* OF says in errors which image it is; "" for the only one. -ENOENT: no such process. */
int pf_pagemap_read(int directory, int pid, const char *of, struct pf_pagemap *map,
		    struct pf_error *err);

/* Writes a file that is not there yet. */
int pf_pagemap_write(int directory, const char *name, const struct pf_pagemap *map,
		     struct pf_error *err);
