// SPDX-License-Identifier: Apache-2.0
/* Owns PAGEMAP_SCAN, and the reading of pagemap where the kernel has none. */
#include "scan.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kernel_abi.h"

#define REGIONS       8192
#define BUFFER_BYTES  (REGIONS * sizeof(struct pf_page_region))
#define ENTRIES       (BUFFER_BYTES / sizeof(uint64_t))
#define PAGE_IS_THERE (3ULL << 62) /* Documentation/admin-guide/mm/pagemap.rst */

int pf_scanner_init(struct pf_scanner *scanner, int pagemap)
{
	struct pf_pm_scan_arg nothing = {.size = sizeof(nothing)};

	scanner->pagemap = pagemap;
	scanner->buffer = malloc(BUFFER_BYTES);
	nothing.category_mask = nothing.return_mask = PF_PAGE_IS_PRESENT;
	scanner->classic = ioctl(pagemap, PF_PAGEMAP_SCAN, &nothing) < 0 && errno == ENOTTY;
	return scanner->buffer ? 0 : -ENOMEM;
}

void pf_scanner_free(struct pf_scanner *scanner)
{
	free(scanner->buffer);
	scanner->buffer = NULL;
}

static int scan_classic(struct pf_scanner *scanner, uint64_t start, uint64_t end,
			struct pf_runs *runs)
{
	uint64_t *entries = scanner->buffer;

	while (start < end) {
		uint64_t pages = (end - start) / PF_PAGE_BYTES;
		size_t bytes = (pages < ENTRIES ? pages : ENTRIES) * sizeof(*entries);
		ssize_t got = pread(scanner->pagemap, entries, bytes,
				    (off_t)(start / PF_PAGE_BYTES * sizeof(*entries)));

		if (got < 0)
			return -errno;
		if (got < (ssize_t)sizeof(*entries))
			return 0; /* behind the last address */
		for (size_t i = 0; i < (size_t)got / sizeof(*entries); i++, start += PF_PAGE_BYTES)
			if (entries[i] & PAGE_IS_THERE &&
			    !pf_runs_add(runs, start, start + PF_PAGE_BYTES, 0))
				return -ENOMEM;
	}
	return 0;
}

/* TOLD is where the regions before have ended: nothing is told twice. */
static bool add_regions(const struct pf_page_region *regions, int count, uint64_t *told,
			struct pf_runs *runs)
{
	for (int i = 0; i < count; i++) {
		uint64_t start = regions[i].start > *told ? regions[i].start : *told;

		if (start >= regions[i].end)
			continue;
		if (!pf_runs_add(runs, start, regions[i].end,
				 regions[i].categories & PF_PAGE_IS_PFNZERO ? PF_RUN_ZERO : 0))
			return false;
		*told = regions[i].end;
	}
	return true;
}

int pf_scan(struct pf_scanner *scanner, uint64_t start, uint64_t end, enum pf_scan_what what,
	    uint32_t flags, struct pf_runs *runs)
{
	struct pf_pm_scan_arg scan = {
		.size = sizeof(scan),
		.flags = (flags & PF_SCAN_TRACKED ? PF_PM_SCAN_CHECK_WPASYNC : 0) |
			 (flags & PF_SCAN_PROTECT ? PF_PM_SCAN_WP_MATCHING : 0),
		.start = start,
		.end = end,
		.vec = (uintptr_t)scanner->buffer,
		.vec_len = REGIONS,
		/* Never WRITTEN alone: that counts what has never been touched as well. */
		.category_mask = what == PF_SCAN_WRITTEN ? PF_PAGE_IS_WRITTEN : 0,
		.category_anyof_mask = PF_PAGE_IS_PRESENT | PF_PAGE_IS_SWAPPED,
		.return_mask = PF_PAGE_IS_PFNZERO,
	};

	uint64_t told = start;
	int count = REGIONS;

	if (scanner->classic)
		return scan_classic(scanner, start, end, runs);
	/* Only where the buffer was full is there more to come: after more than 512 regions Linux
	 * 6.18 gives a walk_end that lies before what it has told. */
	while (scan.start < end && count == REGIONS) {
		count = ioctl(scanner->pagemap, PF_PAGEMAP_SCAN, &scan);
		if (count < 0 && errno == EINTR) {
			count = REGIONS;
			continue;
		}
		if (count < 0)
			return -errno;
		if (!add_regions(scanner->buffer, count, &told, runs))
			return -ENOMEM;
		scan.start = scan.walk_end;
	}
	return 0;
}
