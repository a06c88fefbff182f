/* SPDX-License-Identifier: Apache-2.0 */
/* Pages into which a device may write without the page tables telling.
 *
 * Whoever lets a device write into a program's buffer pins its pages first, and that counts as a
 * write; but when the bytes arrive, the page may have been protected and sent already. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "maps.h"
#include "runs.h"

/* An input that takes longer than this on its way into memory is not expected. */
#define PF_PINS_INPUT_NS (2 * 1000000000ULL)

struct pf_pins {
	/* Files past the page cache, asynchronous I/O: pinned for one input. Stays once it is set:
	 * what is under way does not end with the closing of a file. */
	bool short_lived;
	bool long_lived;      /* registered buffers: pinned until further notice, who knows where */
	struct pf_runs young; /* given since TURNED_NS */
	struct pf_runs old;   /* given in the PF_PINS_INPUT_NS before, or longer ago */
	uint64_t turned_ns;
};

/* Looks at the process's open files and mappings; not in the freeze, where it is too slow. */
void pf_pins_look(struct pf_pins *pins, pid_t pid, const struct pf_vmas *vmas);

/* Long-lived pins alone, quickly. */
void pf_pins_glance(struct pf_pins *pins, pid_t pid);

/* After a round that found FOUND: takes note of it and adds to AGAIN what is to be given once more;
 * ALL: the last round, everything under suspicion. False: no memory. */
bool pf_pins_turn(struct pf_pins *pins, const struct pf_runs *found, uint64_t now_ns, bool all,
		  struct pf_runs *again);

void pf_pins_free(struct pf_pins *pins);
