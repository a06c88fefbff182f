/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages one address space still lacks, and where the bytes of each lie. No I/O here. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define PAGE_SHIFT 12
#define PAGE_BYTES ((uint64_t)1 << PAGE_SHIFT)

/* Neighbouring pages whose bytes are neighbours too. Only an unmap or a move changes a run; a page
 * that is in, or that was removed, is a bit in `placed`. */
struct run {
	uint64_t start; /* where the process has it now */
	uint64_t pages;
	uint64_t first; /* its first page's bit in `placed` */
	const unsigned char *bytes;
};

struct range {
	uint64_t start, end;
};

/* How many moves may wait for the unmap that follows each of them. */
#define RUNS_VACATED 64

struct runs {
	struct run *list; /* by start, without overlaps */
	size_t count, room;
	uint64_t *placed;
	uint64_t pages;    /* bits in `placed` */
	uint64_t missing;  /* pages of `list` whose bit is not set */
	struct range *hot; /* to be looked for first by runs_next, in this order */
	size_t hot_count, hot_room, hot_at;
	uint64_t cursor; /* the address from which runs_next looks then */
	struct range vacated[RUNS_VACATED];
	size_t vacated_count;
};

/* Pages that are missing, neighbours in the process and in the store. */
struct piece {
	uint64_t start;
	uint64_t pages;
	uint64_t run_pages; /* from here on to the end of the neighbourhood, in or not */
	const unsigned char *bytes;
};

/* Adds pages behind all that are there; runs_close ends this and prepares the bits. */
int runs_add(struct runs *runs, uint64_t start, uint64_t pages, const unsigned char *bytes,
	     struct pf_error *err);
/* Adds addresses that the process is likely to touch first, behind those that were added before. */
int runs_add_hot(struct runs *runs, uint64_t start, uint64_t end, struct pf_error *err);
int runs_close(struct runs *runs, struct pf_error *err);
int runs_clone(const struct runs *from, struct runs *to, struct pf_error *err);
void runs_free(struct runs *runs);

/* The first missing pages in [START, END), at most LIMIT; false if there are none. */
bool runs_missing(const struct runs *runs, uint64_t start, uint64_t end, uint64_t limit,
		  struct piece *piece);
/* The next missing pages for the fill, at most LIMIT; false once nothing is missing. */
bool runs_next(struct runs *runs, uint64_t limit, struct piece *piece);

/* The pages are in, or were removed (MADV_DONTNEED): their bytes are never to be placed again. */
void runs_settle(struct runs *runs, uint64_t start, uint64_t end);
/* The process unmapped the range. */
int runs_unmap(struct runs *runs, uint64_t start, uint64_t end, struct pf_error *err);
/* The process moved BYTES bytes from FROM to TO. */
int runs_remap(struct runs *runs, uint64_t from, uint64_t to, uint64_t bytes, struct pf_error *err);
