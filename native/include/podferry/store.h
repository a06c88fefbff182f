/* SPDX-License-Identifier: Apache-2.0 */
/* The page store on the target: the memory of one container's processes, kept up to date by a
 * stream, sealed against CRIU's image, read by the pager. docs/wire.md has the bytes. */
#pragma once

#include <stdint.h>

#include "podferry/error.h"

struct pf_store;

/* What a store holds; both ends of a stream count alike. */
struct pf_store_counts {
	uint64_t processes;
	uint64_t pages; /* with bytes */
	uint64_t zero_pages;
	uint64_t file_bytes;
	uint64_t files;
	uint64_t digest; /* over every page's place and content, and every part of a file */
};

struct pf_store_sealed {
	uint64_t processes;
	uint64_t pages; /* that the pager will place */
	uint64_t zero_pages;
	uint64_t unused_pages; /* received, and in no pagemap any more */
	uint64_t recent_pages; /* that the pager will place first */
};

/* Makes DIRECTORY (0700, its parent exists, it does not) and DIRECTORY/images. */
int pf_store_create(struct pf_store **out, const char *directory, uint64_t quota_bytes,
		    struct pf_error *err);

/* Lets go; the files stay. NULL is allowed. */
void pf_store_release(struct pf_store *store);

int pf_store_read_counts(struct pf_store *store, struct pf_store_counts *out, struct pf_error *err);

/* Takes no more pages, and writes the pager's index of every process of the image in IMAGE_DIR
 * (NULL: the store's own). -ENODATA: a page that the image says exists never came. -ESTALE: the
 * sender has not confirmed what is here. Nothing may be restored after a failure. */
int pf_store_seal(struct pf_store *store, const char *image_dir, struct pf_store_sealed *out,
		  struct pf_error *err);
