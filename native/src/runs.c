// SPDX-License-Identifier: Apache-2.0
/* Owns the arithmetic of runs: join, unite, cut. */
#include "runs.h"

#include <stdlib.h>

#define RUN_PAGES_MAX UINT32_MAX

static bool grow(struct pf_runs *runs)
{
	size_t room = runs->room ? runs->room * 2 : 1024;
	struct pf_run *list = realloc(runs->list, room * sizeof(*list));

	if (!list)
		return false;
	runs->list = list;
	runs->room = room;
	return true;
}

bool pf_runs_add(struct pf_runs *runs, uint64_t start, uint64_t end, uint32_t flags)
{
	struct pf_run *last = runs->count > 0 ? &runs->list[runs->count - 1] : NULL;

	if (last && pf_run_end(last) == start && last->flags == flags &&
	    (end - start) / PF_PAGE_BYTES <= RUN_PAGES_MAX - last->pages) {
		last->pages += (uint32_t)((end - start) / PF_PAGE_BYTES);
		return true;
	}
	while (start < end) {
		uint64_t pages = (end - start) / PF_PAGE_BYTES;

		if (pages > RUN_PAGES_MAX)
			pages = RUN_PAGES_MAX;
		if (runs->count == runs->room && !grow(runs))
			return false;
		runs->list[runs->count++] = (struct pf_run){start, (uint32_t)pages, flags};
		start += pages * PF_PAGE_BYTES;
	}
	return true;
}

bool pf_runs_cut(struct pf_runs *out, const struct pf_runs *a, const struct pf_runs *b, bool keep)
{
	size_t next = 0;

	for (size_t i = 0; i < a->count; i++) {
		uint64_t at = a->list[i].vaddr, end = pf_run_end(&a->list[i]);

		while (next < b->count && pf_run_end(&b->list[next]) <= at)
			next++;
		for (size_t j = next; at < end; j++) {
			uint64_t from = j < b->count ? b->list[j].vaddr : end;
			uint64_t to = j < b->count ? pf_run_end(&b->list[j]) : end;

			from = from < at ? at : from > end ? end : from;
			to = to < from ? from : to > end ? end : to;
			if (!pf_runs_add(out, keep ? from : at, keep ? to : from, a->list[i].flags))
				return false;
			at = to;
		}
	}
	return true;
}

bool pf_runs_unite(struct pf_runs *out, const struct pf_runs *a, const struct pf_runs *b,
		   uint32_t b_flags)
{
	PF_AUTO_RUNS struct pf_runs rest = {0};
	size_t i = 0, j = 0;
	bool fits = pf_runs_cut(&rest, b, a, false);

	while (fits && (i < a->count || j < rest.count)) {
		bool from_a =
			j == rest.count || (i < a->count && a->list[i].vaddr < rest.list[j].vaddr);
		const struct pf_run *run = from_a ? &a->list[i++] : &rest.list[j++];

		fits = pf_runs_add(out, run->vaddr, pf_run_end(run), from_a ? run->flags : b_flags);
	}
	return fits;
}

uint64_t pf_runs_pages(const struct pf_runs *runs)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < runs->count; i++)
		pages += runs->list[i].pages;
	return pages;
}

void pf_runs_free(struct pf_runs *runs)
{
	free(runs->list);
	*runs = (struct pf_runs){0};
}
