/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages of a process are there, and which of them were written. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "runs.h"

enum pf_scan_what {
	PF_SCAN_PRESENT, /* in memory or swapped out */
	PF_SCAN_WRITTEN, /* of them: not write-protected since they were written */
};

enum pf_scan_flags {
	PF_SCAN_TRACKED = 1 << 0, /* -EPERM where a mapping is not under write protection */
	PF_SCAN_PROTECT = 1 << 1, /* protects what it finds, in one step with finding it */
};

struct pf_scanner {
	int pagemap;
	bool classic; /* the kernel has no PAGEMAP_SCAN: PRESENT without flags alone */
	void *buffer;
};

/* PAGEMAP is an open /proc/PID/pagemap, the caller's. -ENOMEM. */
int pf_scanner_init(struct pf_scanner *scanner, int pagemap);

void pf_scanner_free(struct pf_scanner *scanner);

/* Adds what is found in [START, END) to RUNS, with PF_RUN_ZERO where the kernel knows. A negative
 * errno leaves in RUNS what was found before. */
int pf_scan(struct pf_scanner *scanner, uint64_t start, uint64_t end, enum pf_scan_what what,
	    uint32_t flags, struct pf_runs *runs);
