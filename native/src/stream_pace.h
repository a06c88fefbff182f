/* SPDX-License-Identifier: Apache-2.0 */
/* Whether compressing pays: only where the link is slower than the compressor. No I/O. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PF_PACE_PROBE_EVERY 32u /* frames */
#define PF_PACE_PROBE_BYTES (16u << 10)

struct pf_pace {
	double write_ns_per_byte;    /* of what goes on the wire */
	double compress_ns_per_byte; /* of what goes in */
	double ratio;                /* out / in */
	uint32_t frames;
};

/* Says that BYTES have taken NS to be written. */
void pf_pace_wrote(struct pf_pace *pace, uint64_t bytes, uint64_t ns);
/* Whether the next frame is to be tried; counts frames. */
bool pf_pace_wants_probe(struct pf_pace *pace);
void pf_pace_probed(struct pf_pace *pace, uint32_t in_bytes, uint32_t out_bytes, uint64_t ns);
bool pf_pace_pays(const struct pf_pace *pace);
