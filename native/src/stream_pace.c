// SPDX-License-Identifier: Apache-2.0
/* Owns the choice between sending bytes as they are and compressing them. */
#include "stream_pace.h"

#define KEEP        0.875 /* of the old mean */
#define WORTH_WHILE 0.9   /* of the time without compression */

static double mean(double old, double fresh)
{
	return old > 0 ? old * KEEP + fresh * (1 - KEEP) : fresh;
}

void pf_pace_wrote(struct pf_pace *pace, uint64_t bytes, uint64_t ns)
{
	if (bytes > 0)
		pace->write_ns_per_byte = mean(pace->write_ns_per_byte, (double)ns / (double)bytes);
}

bool pf_pace_wants_probe(struct pf_pace *pace)
{
	return pace->frames++ % PF_PACE_PROBE_EVERY == 0;
}

void pf_pace_probed(struct pf_pace *pace, uint32_t in_bytes, uint32_t out_bytes, uint64_t ns)
{
	pace->compress_ns_per_byte = mean(pace->compress_ns_per_byte, (double)ns / in_bytes);
	pace->ratio = mean(pace->ratio, (double)out_bytes / in_bytes);
}

bool pf_pace_pays(const struct pf_pace *pace)
{
	return pace->ratio > 0 &&
	       pace->compress_ns_per_byte + pace->ratio * pace->write_ns_per_byte <
		       WORTH_WHILE * pace->write_ns_per_byte;
}
