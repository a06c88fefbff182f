/* SPDX-License-Identifier: Apache-2.0 */
/* The names under which a hold's parts are pinned. */
#pragma once

#include <stddef.h>

#include "podferry/error.h"

#define PF_PIN_PHASE     "phase"
#define PF_PIN_CONFIG    "config"
#define PF_PIN_COUNTS    "counts"
#define PF_PIN_RAISED    "raised"
#define PF_PIN_ADDRESSES "addresses"
#define PF_PIN_EVENTS    "events"
#define PF_PIN_TARGETS   "targets"
#define PF_PIN_SETTLE    "settle"

struct pf_hold_attachment {
	const char *program_pin;
	const char *link_pin;
	int is_egress;
	int is_far_end; /* on the plug's far end, not on the pod's device */
};

/* By enum pf_hold_programs, which is also the order of attaching: nothing may enter the plug before
 * there is a program at its far end. */
#define PF_HOLD_ATTACHMENTS 3
extern const struct pf_hold_attachment pf_hold_attachments[PF_HOLD_ATTACHMENTS];

/* PIN_DIR/NAME in OUT, -ENAMETOOLONG if it does not fit. */
int pf_hold_pin_path(char *out, size_t out_bytes, const char *pin_dir, const char *name,
		     struct pf_error *err);

/* The pin's fd; -ENOENT if there is none. */
int pf_hold_get_pin(const char *pin_dir, const char *name, struct pf_error *err);
