/* SPDX-License-Identifier: Apache-2.0 */
/* Which bytes of which page were sent, as a hash of them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pf_hash_chunk;

struct pf_hashes {
	struct pf_hash_chunk **slots; /* open addressing, a power of two of them */
	size_t slot_count;
	size_t chunk_count;
	uint64_t seed; /* nobody outside can make two pages that look alike */
};

int pf_hashes_init(struct pf_hashes *hashes);

uint64_t pf_hashes_of(const struct pf_hashes *hashes, const void *page);

/* The hash kept of the page at VADDR, 0 for none; NULL: no memory. MAKE: room for it is made. The
 * place is valid until the next call that makes room or ends a round. */
uint64_t *pf_hashes_at(struct pf_hashes *hashes, uint64_t vaddr, bool make);

/* The page is there in this round. */
void pf_hashes_seen(struct pf_hashes *hashes, uint64_t vaddr);

/* Forgets the pages that were not seen since the last call: they are gone. */
void pf_hashes_end_round(struct pf_hashes *hashes);

void pf_hashes_clear(struct pf_hashes *hashes);
void pf_hashes_free(struct pf_hashes *hashes);
