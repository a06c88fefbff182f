/* SPDX-License-Identifier: Apache-2.0 */
/* Proofs that the kernel does what podferry builds on: each probe uses the feature on something of
 * its own and looks at the outcome. Nothing of a probe outlives its call.
 *
 * A return of 0 says that the probe ran to its end; whether the feature is there is in the result. A
 * kernel without the feature is a negative errno with the step that failed in the message. */
#pragma once

#include <stdint.h>

#include "podferry/error.h"

/* What userfaultfd offers: the kernel's own UFFD_FEATURE_ bits. */
int pf_probe_userfaultfd(uint64_t *features, struct pf_error *err);
