/* SPDX-License-Identifier: Apache-2.0 */
/* The loaded rerouting programs, for the library's own use. */
#pragma once

#include "podferry/reroute.h"
#include "reroute.skel.h"

struct pf_reroute {
	struct reroute_bpf *skeleton;
	char *pin_dir;
};

/* The program's fd, owned by REROUTE; -EINVAL for a number that is no program. */
int pf_reroute_program_fd(const struct pf_reroute *reroute, int program);
