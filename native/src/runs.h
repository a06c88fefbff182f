/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of runs that grow. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "podferry/run.h"

struct pf_runs {
	struct pf_run *list;
	size_t count;
	size_t room;
};

static inline uint64_t pf_run_end(const struct pf_run *run)
{
	return run->vaddr + (uint64_t)run->pages * PF_PAGE_BYTES;
}

/* Adds [START, END) at the end, joined to the last run where that is possible; false: no memory. */
bool pf_runs_add(struct pf_runs *runs, uint64_t start, uint64_t end, uint32_t flags);

/* Adds to OUT, by ascending address, all of A and what of B is not in A, with B_FLAGS on it; both
 * are ascending and free of overlaps. */
bool pf_runs_unite(struct pf_runs *out, const struct pf_runs *a, const struct pf_runs *b,
		   uint32_t b_flags);

/* Adds to OUT what of A is (KEEP) or is not in B. */
bool pf_runs_cut(struct pf_runs *out, const struct pf_runs *a, const struct pf_runs *b, bool keep);

uint64_t pf_runs_pages(const struct pf_runs *runs);

void pf_runs_free(struct pf_runs *runs);

#define PF_AUTO_RUNS __attribute__((cleanup(pf_runs_free)))
