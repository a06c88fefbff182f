/* SPDX-License-Identifier: Apache-2.0 */
/* What CRIU's dump of a moving pod has left out: a file of such heads, regions behind each. Written
 * by the library that is preloaded into CRIU, in the machine's byte order. */
#pragma once

#include <stdint.h>

#define PF_LEFT_OUT_MAGIC 0x74756f7466656c01u

struct pf_left_out_head {
	uint64_t magic;
	int64_t pid; /* as CRIU counts */
	uint64_t count;
};

struct pf_left_out_region {
	uint64_t start, end; /* as PAGEMAP_SCAN gives them: one may begin before another's end */
};
