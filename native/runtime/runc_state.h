/* SPDX-License-Identifier: Apache-2.0 */
/* Owns runc's state.json: what is read from it, and how it is kept true after a wake. */
#ifndef PR_RUNC_STATE_H
#define PR_RUNC_STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cgroup.h"

struct pr_runc_state {
	pid_t init;
	uint64_t start;
	struct pr_cgroups groups; /* to be freed */
};

/* 0 or -errno. */
int pr_runc_state_read(const char *path, struct pr_runc_state *state);

struct pr_new_init {
	pid_t pid;
	uint64_t start;
	bool own_namespaces; /* namespace_paths follow it; a placeholder's must not be joined */
	bool time_namespace; /* CRIU has given it one */
};

/* Puts new text together; NULL if text is not such a state or names another init than expected.
 * The result is malloc'd. */
char *pr_runc_state_edit(const char *text, size_t bytes, pid_t expected,
			 const struct pr_new_init *init, size_t *made);
/* 0; -ESTALE if the file names another init than expected. */
int pr_runc_state_rewrite(const char *path, pid_t expected, const struct pr_new_init *init);

#endif
