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

static bool add_regions(const struct pf_page_region *regions, int count, struct pf_runs *runs)
{
	for (int i = 0; i < count; i++)
		if (!pf_runs_add(runs, regions[i].start, regions[i].end,
				 regions[i].categories & PF_PAGE_IS_PFNZERO ? PF_RUN_ZERO : 0))
			return false;
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

	if (scanner->classic)
		return scan_classic(scanner, start, end, runs);
	while (scan.start < end) {
		int count = ioctl(scanner->pagemap, PF_PAGEMAP_SCAN, &scan);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return -errno;
		if (!add_regions(scanner->buffer, count, runs))
			return -ENOMEM;
		scan.start = scan.walk_end;
	}
	return 0;
}
