/* SPDX-License-Identifier: Apache-2.0 */
/* When a watched address last sent or received a packet: loads bpf/activity and reads its map.
 *
 * An address is 16 bytes: IPv6, or IPv4 mapped as ::ffff:a.b.c.d. Nothing here attaches a program
 * to a device; the caller has the program's fd. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "podferry/error.h"

struct pf_activity;

enum pf_activity_program {
	PF_ACTIVITY_XDP = 0,
	PF_ACTIVITY_TC = 1,
};

struct pf_activity_direction {
	uint64_t last_ns; /* CLOCK_MONOTONIC; 0: none yet */
	uint64_t packets;
	uint64_t bytes;
};

struct pf_activity_record {
	struct pf_activity_direction received;
	struct pf_activity_direction sent;
};

/* Loads the programs. With PIN_DIR (a directory of a bpf file system, made if absent) the map is
 * pinned there as `activity_addresses`, or taken over from there, so that the counts outlive the
 * process; NULL pins nothing. The verifier's last words go to VERIFIER_LOG (may be NULL). */
int pf_activity_open(struct pf_activity **out, const char *pin_dir, char *verifier_log,
		     size_t verifier_log_bytes, struct pf_error *err);

/* Lets the programs and the map go; what is pinned or attached stays. NULL is allowed. */
void pf_activity_close(struct pf_activity *activity);

/* The program's fd, owned by ACTIVITY; -EINVAL for a number that is no program. */
int pf_activity_program_fd(const struct pf_activity *activity, int program);

/* Starts counting at zero; -EEXIST if the address is watched, -E2BIG if the map is full. */
int pf_activity_watch(struct pf_activity *activity, const uint8_t address[16],
		      struct pf_error *err);

/* -ENOENT if the address is not watched. */
int pf_activity_unwatch(struct pf_activity *activity, const uint8_t address[16],
			struct pf_error *err);

/* -ENOENT if the address is not watched. */
int pf_activity_read(struct pf_activity *activity, const uint8_t address[16],
		     struct pf_activity_record *out, struct pf_error *err);

/* Runs a program once on a frame of the caller's, without a device; VERDICT gets its return value.
 * The kernel refuses frames shorter than an Ethernet header (-EINVAL). */
int pf_activity_test_run(struct pf_activity *activity, int program, const void *frame,
			 size_t frame_bytes, uint32_t *verdict, struct pf_error *err);
