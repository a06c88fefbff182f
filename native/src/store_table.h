/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of every page: at the source what was sent, at the target what has come. Both keep
 * the same sums over it, so that one comparison says whether they agree. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "podferry/run.h"
#include "podferry/store.h"

#define PF_BLOCK_PAGES   64u
#define PF_BLOCK_BYTES   ((uint64_t)PF_BLOCK_PAGES * PF_PAGE_BYTES)
#define PF_REGION_BLOCKS 256u
#define PF_REGION_BYTES  (PF_REGION_BLOCKS * PF_BLOCK_BYTES)
#define PF_VADDR_END     ((uint64_t)1 << 56)
#define PF_PROCESSES_MAX 4096u

/* 64 pages, a bit for each. */
struct pf_block {
	uint64_t data, zero; /* never both */
	uint64_t recent;     /* came in `round` */
	uint64_t again;      /* came more than once */
	uint32_t round;
	uint64_t hash[PF_BLOCK_PAGES];
};

/* A region's pages lie together in the data file, at its number times its size. */
struct pf_region {
	uint64_t start;
	uint32_t number;
	struct pf_block *blocks[PF_REGION_BLOCKS];
};

struct pf_process {
	int pid;
	int fd;                     /* the store's; -1: none */
	struct pf_region **regions; /* by start */
	size_t count, room;
};

struct pf_table {
	pthread_mutex_t lock; /* the callers', except where a function says that it takes it */
	struct pf_process **processes;
	size_t count, room;
	uint64_t blocks; /* their memory counts against a quota */
	struct pf_store_counts counts;
};

void pf_table_init(struct pf_table *table);
/* Forgets everything, the counts too. */
void pf_table_clear(struct pf_table *table);
void pf_table_free(struct pf_table *table);

/* NULL: there is none, or with MAKE, no memory or more than PF_PROCESSES_MAX. */
struct pf_process *pf_table_process(struct pf_table *table, int pid, bool make);
void pf_table_drop(struct pf_table *table, int pid);

/* The block with VADDR; REGION may be NULL. NULL: there is none, or with MAKE, no memory. */
struct pf_block *pf_process_block(struct pf_table *table, struct pf_process *process,
				  uint64_t vaddr, bool make, struct pf_region **region);

/* Notes new content: HASHES has one for each bit of DATA, in order. Bits of DATA and ZERO differ. */
void pf_block_note(struct pf_table *table, int pid, struct pf_block *block, uint64_t vaddr,
		   uint64_t data, uint64_t zero, const uint64_t *hashes, uint32_t round);

/* Notes a part of a file. */
void pf_table_note_part(struct pf_table *table, const char *name, uint64_t offset, uint64_t bytes,
			uint64_t sum);

/* Hash of a page's content, never 0. SEED is the store's secret: a pod's clients cannot make two
 * pages that look alike. */
uint64_t pf_page_hash(uint64_t seed, const void *page);
/* The same for processors that have AVX2, and may be 0. */
uint64_t pf_page_hash_avx2(uint64_t seed, const void *page);
