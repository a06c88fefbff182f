// SPDX-License-Identifier: Apache-2.0
/* Compression is chosen where the link is slow and the bytes give way, and nowhere else. */
#include "check.h"
#include "stream_pace.h"

#define MIB (1u << 20)

static struct pf_pace measured(double link_ns_per_byte, double pack_ns_per_byte, double ratio)
{
	struct pf_pace pace = {0};

	pf_pace_wrote(&pace, MIB, (uint64_t)(link_ns_per_byte * MIB));
	pf_pace_probed(&pace, MIB, (uint32_t)(ratio * MIB), (uint64_t)(pack_ns_per_byte * MIB));
	return pace;
}

static bool pays(double link_ns_per_byte, double pack_ns_per_byte, double ratio)
{
	struct pf_pace pace = measured(link_ns_per_byte, pack_ns_per_byte, ratio);

	return pf_pace_pays(&pace);
}

int main(void)
{
	struct pf_pace fresh = {0};
	unsigned probes = 0;

	CHECK(!pf_pace_pays(&fresh));
	CHECK(pays(8, 2.5, 0.5));          /* 1 Gbit/s, half-compressible */
	CHECK(!pays(0.8, 2.5, 0.5));       /* 10 Gbit/s, the same */
	CHECK(pays(0.8, 0.15, 0.02));      /* 10 Gbit/s, the same byte again and again */
	CHECK(!pays(8, 0.3, 1.0));         /* random bytes */
	CHECK(!pays(8, 2.5, 0.75 - 0.11)); /* hardly worth while */
	for (unsigned frame = 0; frame < 10 * PF_PACE_PROBE_EVERY; frame++)
		probes += pf_pace_wants_probe(&fresh);
	CHECK_EQUAL(probes, 10);
	return 0;
}
