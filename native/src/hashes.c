// SPDX-License-Identifier: Apache-2.0
/* Owns the table of hashes: chunks of 512 pages, found by their address. */
#include "hashes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "podferry/run.h"

#define CHUNK_PAGES      512
#define CHUNK_BYTES      ((uint64_t)CHUNK_PAGES * PF_PAGE_BYTES)
#define FIRST_SLOT_COUNT 1024

struct pf_hash_chunk {
	uint64_t start;
	uint64_t seen[CHUNK_PAGES / 64];
	uint64_t hash[CHUNK_PAGES];
};

int pf_hashes_init(struct pf_hashes *hashes)
{
	*hashes = (struct pf_hashes){.slot_count = FIRST_SLOT_COUNT};
	hashes->slots = calloc(hashes->slot_count, sizeof(*hashes->slots));
	if (!hashes->slots)
		return -ENOMEM;
	if (getrandom(&hashes->seed, sizeof(hashes->seed), 0) != sizeof(hashes->seed))
		return -EIO;
	return 0;
}

uint64_t pf_hashes_of(const struct pf_hashes *hashes, const void *page)
{
	uint64_t hash = XXH3_64bits_withSeed(page, PF_PAGE_BYTES, hashes->seed);

	return hash ? hash : 1; /* 0 is none */
}

static struct pf_hash_chunk **slot_of(struct pf_hash_chunk **slots, size_t count, uint64_t start)
{
	size_t at = (size_t)(start / CHUNK_BYTES * 0x9e3779b97f4a7c15ULL >> 32) & (count - 1);

	while (slots[at] && slots[at]->start != start)
		at = (at + 1) & (count - 1);
	return &slots[at];
}

static bool rebuild(struct pf_hashes *hashes, size_t count)
{
	struct pf_hash_chunk **slots = calloc(count, sizeof(struct pf_hash_chunk *));

	if (!slots)
		return false;
	for (size_t i = 0; i < hashes->slot_count; i++)
		if (hashes->slots[i])
			*slot_of(slots, count, hashes->slots[i]->start) = hashes->slots[i];
	free(hashes->slots);
	hashes->slots = slots;
	hashes->slot_count = count;
	return true;
}

static struct pf_hash_chunk *find(struct pf_hashes *hashes, uint64_t vaddr, bool make)
{
	uint64_t start = vaddr / CHUNK_BYTES * CHUNK_BYTES;
	struct pf_hash_chunk **slot = slot_of(hashes->slots, hashes->slot_count, start);

	if (*slot || !make)
		return *slot;
	if (hashes->chunk_count * 2 >= hashes->slot_count) {
		if (!rebuild(hashes, hashes->slot_count * 2))
			return NULL;
		slot = slot_of(hashes->slots, hashes->slot_count, start);
	}
	*slot = calloc(1, sizeof(**slot));
	if (*slot) {
		(*slot)->start = start;
		hashes->chunk_count++;
	}
	return *slot;
}

uint64_t *pf_hashes_at(struct pf_hashes *hashes, uint64_t vaddr, bool make)
{
	struct pf_hash_chunk *chunk = find(hashes, vaddr, make);

	return chunk ? &chunk->hash[vaddr % CHUNK_BYTES / PF_PAGE_BYTES] : NULL;
}

void pf_hashes_seen(struct pf_hashes *hashes, uint64_t vaddr)
{
	struct pf_hash_chunk *chunk = find(hashes, vaddr, false);
	size_t page = vaddr % CHUNK_BYTES / PF_PAGE_BYTES;

	if (chunk)
		chunk->seen[page / 64] |= 1ULL << page % 64;
}

/* False: nothing of it is there. */
static bool forget_unseen(struct pf_hash_chunk *chunk)
{
	uint64_t any = 0;

	for (size_t i = 0; i < CHUNK_PAGES; i++)
		if (!(chunk->seen[i / 64] >> i % 64 & 1))
			chunk->hash[i] = 0;
	for (size_t i = 0; i < CHUNK_PAGES / 64; i++)
		any |= chunk->seen[i];
	memset(chunk->seen, 0, sizeof(chunk->seen));
	return any != 0;
}

void pf_hashes_end_round(struct pf_hashes *hashes)
{
	size_t freed = 0;

	for (size_t i = 0; i < hashes->slot_count; i++) {
		if (!hashes->slots[i] || forget_unseen(hashes->slots[i]))
			continue;
		free(hashes->slots[i]);
		hashes->slots[i] = NULL;
		freed++;
	}
	hashes->chunk_count -= freed;
	/* Emptied slots break the search for what was put behind them; where there is no memory for
	 * a new table, all is sent again. */
	if (freed > 0 && !rebuild(hashes, hashes->slot_count))
		pf_hashes_clear(hashes);
}

void pf_hashes_clear(struct pf_hashes *hashes)
{
	for (size_t i = 0; i < hashes->slot_count; i++) {
		free(hashes->slots[i]);
		hashes->slots[i] = NULL;
	}
	hashes->chunk_count = 0;
}

void pf_hashes_free(struct pf_hashes *hashes)
{
	pf_hashes_clear(hashes);
	free(hashes->slots);
	*hashes = (struct pf_hashes){0};
}
