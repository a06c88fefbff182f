/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of a tracker share. */
#pragma once

#include "hashes.h"
#include "maps.h"
#include "pins.h"
#include "podferry/track.h"
#include "runs.h"
#include "scan.h"

struct pf_tracker {
	pid_t pid;
	int mode;
	char reason[PF_TRACKER_REASON_BYTES];
	uint64_t stopped_ns;
	int pidfd;
	int maps;         /* as pagemap: of the memory the process had when it was opened */
	int pagemap;      /* the scanner's */
	int userfaultfd;  /* WP_ASYNC */
	bool owed;        /* the next round gives everything */
	uint32_t number;  /* of the last round */
	uint64_t last_ns; /* when it was */
	struct pf_vmas vmas;
	struct pf_runs covered; /* the mappings of this round */
	struct pf_runs before;  /* and of the one before */
	struct pf_runs found;   /* before suspects are added */
	struct pf_runs united;
	struct pf_runs gone;
	struct pf_scanner scanner;
	struct pf_hashes hashes; /* HASH */
	void *page_buffer;       /* HASH */
	struct pf_pins pins;
};

/* Makes the userfaultfd and tries it; fails where this way of tracking is not possible. */
int pf_track_wp_open(struct pf_tracker *tracker, struct pf_error *err);

/* Both add to FOUND the pages of the mapping [START, END) that are to be sent; EVERYTHING: all of
 * them. PROTECT is false in the last round. ROUND's counts of tracked memory are added to. -EBUSY:
 * the process uses userfaultfd itself. */
int pf_track_wp_scan(struct pf_tracker *tracker, uint64_t start, uint64_t end, bool everything,
		     bool protect, struct pf_round *round, struct pf_error *err);
int pf_track_hash_scan(struct pf_tracker *tracker, uint64_t start, uint64_t end,
		       struct pf_round *round, struct pf_error *err);

int pf_track_hash_open(struct pf_tracker *tracker, struct pf_error *err);
