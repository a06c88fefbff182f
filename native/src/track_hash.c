// SPDX-License-Identifier: Apache-2.0
/* Owns tracking by comparing hashes: every page is read in every round. */
#include <errno.h>
#include <stdlib.h>

#include "error.h"
#include "tracker.h"

#define BATCH_PAGES 512

int pf_track_hash_open(struct pf_tracker *tracker, struct pf_error *err)
{
	if (pf_hashes_init(&tracker->hashes) == 0)
		tracker->page_buffer = malloc((size_t)BATCH_PAGES * PF_PAGE_BYTES);
	return tracker->page_buffer ? 0 : pf_fail(err, -ENOMEM, "no memory for a table of hashes");
}

static int compare_batch(struct pf_tracker *tracker, const struct pf_run *run,
			 struct pf_round *round, struct pf_error *err)
{
	uint8_t states[BATCH_PAGES];
	int64_t got = pf_read_pages(tracker->pid, run, 1, tracker->page_buffer,
				    (size_t)BATCH_PAGES * PF_PAGE_BYTES, states, err);

	if (got < 0)
		return (int)got;
	for (uint32_t i = 0; i < run->pages; i++) {
		uint64_t vaddr = run->vaddr + (uint64_t)i * PF_PAGE_BYTES;
		const uint8_t *page = (uint8_t *)tracker->page_buffer + (size_t)i * PF_PAGE_BYTES;
		uint64_t *sent;

		if (states[i] == PF_PAGE_GONE)
			continue;
		sent = pf_hashes_at(&tracker->hashes, vaddr, true);
		if (!sent)
			return pf_fail(err, -ENOMEM, "no memory for a table of hashes");
		pf_hashes_seen(&tracker->hashes, vaddr);
		if (*sent == pf_hashes_of(&tracker->hashes, page))
			continue;
		round->dirty_pages += *sent != 0;
		*sent = 0; /* until somebody says which bytes went */
		if (!pf_runs_add(&tracker->found, vaddr, vaddr + PF_PAGE_BYTES, 0))
			return pf_fail(err, -ENOMEM, "no memory for runs of pages");
	}
	return 0;
}

int pf_track_hash_scan(struct pf_tracker *tracker, uint64_t start, uint64_t end,
		       struct pf_round *round, struct pf_error *err)
{
	PF_AUTO_RUNS struct pf_runs present = {0};
	int code = pf_scan(&tracker->scanner, start, end, PF_SCAN_PRESENT, 0, &present);

	if (code < 0)
		return pf_fail(err, code, "reading the pagemap of process %d", tracker->pid);
	round->registered_bytes += end - start;
	for (size_t i = 0; code == 0 && i < present.count; i++) {
		struct pf_run rest = present.list[i];

		while (code == 0 && rest.pages > 0) {
			struct pf_run batch = rest;

			if (batch.pages > BATCH_PAGES)
				batch.pages = BATCH_PAGES;
			code = compare_batch(tracker, &batch, round, err);
			rest.vaddr += (uint64_t)batch.pages * PF_PAGE_BYTES;
			rest.pages -= batch.pages;
		}
	}
	return code;
}

void pf_tracker_note(struct pf_tracker *tracker, const struct pf_run *runs, size_t run_count,
		     const void *pages, const uint8_t *states)
{
	const uint8_t *page = pages;
	size_t number = 0;

	if (tracker->mode != PF_TRACKER_HASH)
		return;
	for (size_t i = 0; i < run_count; i++) {
		for (uint32_t j = 0; j < runs[i].pages; j++, number++, page += PF_PAGE_BYTES) {
			uint64_t vaddr = runs[i].vaddr + (uint64_t)j * PF_PAGE_BYTES;
			uint64_t *sent = pf_hashes_at(&tracker->hashes, vaddr, false);

			if (sent)
				*sent = states[number] == PF_PAGE_GONE
						? 0
						: pf_hashes_of(&tracker->hashes, page);
		}
	}
}
