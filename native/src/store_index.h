/* SPDX-License-Identifier: Apache-2.0 */
/* PID.index: where the pager finds a process's pages in PID.pages. docs/wire.md has the bytes. */
#pragma once

#include <stdint.h>

#define PF_INDEX_MAGIC     "PFSTORE\1"
#define PF_INDEX_MAX_BYTES ((int64_t)1 << 30)

struct pf_index_head {
	char magic[8] __attribute__((nonstring)); /* gcc 15 asks whether its NUL is missed */
	int32_t pid;
	uint32_t reserved;
	uint64_t runs;
	uint64_t hot;
	uint64_t pages;      /* of all runs */
	uint64_t zero_pages; /* that are in no run */
	uint64_t data_bytes; /* that the data file has at least */
	uint64_t sum;        /* xxh3 of the head up to here, then of what follows */
};

/* By start, without overlaps. */
struct pf_index_run {
	uint64_t start;
	uint64_t pages;
	uint64_t offset; /* in the data file */
};

/* To be placed before the rest, in this order; may name pages that are in no run. */
struct pf_index_hot {
	uint64_t start;
	uint64_t pages;
};

_Static_assert(sizeof(struct pf_index_head) == 64, "docs/wire.md");
_Static_assert(sizeof(struct pf_index_run) == 24, "docs/wire.md");
_Static_assert(sizeof(struct pf_index_hot) == 16, "docs/wire.md");
