/* SPDX-License-Identifier: Apache-2.0 */
/* A stretch of pages of one process: what a tracker gives and a sender takes. */
#pragma once

#include <stdint.h>

#define PF_PAGE_BYTES 4096

enum pf_run_flags {
	PF_RUN_ZERO = 1 << 0,    /* the kernel's zero page: nothing needs to be read */
	PF_RUN_SUSPECT = 1 << 1, /* not seen to be written, but a device may have written to it */
};

struct pf_run {
	uint64_t vaddr; /* of the first page */
	uint32_t pages; /* of PF_PAGE_BYTES each, not 0 */
	uint32_t flags;
};

_Static_assert(sizeof(struct pf_run) == 16, "arrays of runs pass through Python as buffers");
