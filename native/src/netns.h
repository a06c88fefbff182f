/* SPDX-License-Identifier: Apache-2.0 */
/* A network namespace for the length of one function, for the probes. */
#pragma once

#include "podferry/error.h"

/* Calls BODY on a thread of its own in a new network namespace whose loopback is up, and returns
 * its value. The namespace goes with the thread: the caller's is never left. */
int pf_in_new_netns(int (*body)(void *argument, struct pf_error *err), void *argument,
		    struct pf_error *err);
