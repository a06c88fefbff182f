/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what is done to cgroups of either version: joining, freezing, fencing, CPU limits. */
#ifndef PR_CGROUP_H
#define PR_CGROUP_H

#include <stdbool.h>
#include <sys/types.h>

#include "json.h"

#define PR_CGROUPS_MAX 20

/* One directory per hierarchy; with v2 alone that is one. */
struct pr_cgroups {
	int count;
	char *dirs[PR_CGROUPS_MAX];
	char *freezer; /* one of dirs, or NULL */
	char *cpu;     /* one of dirs, or NULL */
	bool freezer_v2, cpu_v2;
};

/* From runc's state: {"memory": "/sys/fs/cgroup/memory/..."} or {"": "/sys/fs/cgroup/..."}. */
int pr_cgroups_from_paths(struct pr_span paths, struct pr_cgroups *groups);
/* Where this process itself is, from the text of /proc/self/cgroup and /proc/self/mountinfo. */
int pr_cgroups_parse(const char *membership, const char *mountinfo, struct pr_cgroups *groups);
int pr_cgroups_of_self(struct pr_cgroups *groups);
void pr_cgroups_free(struct pr_cgroups *groups);

int pr_cgroups_join(const struct pr_cgroups *groups, pid_t pid);
bool pr_cgroups_frozen(const struct pr_cgroups *groups);
/* Returns once all tasks stand still: 0, or -ETIMEDOUT. */
int pr_cgroups_freeze(const struct pr_cgroups *groups);
int pr_cgroups_thaw(const struct pr_cgroups *groups);
/* Calls back for each process; stops at the first that gives false. */
bool pr_cgroups_each(const struct pr_cgroups *groups, bool (*visit)(pid_t pid, void *context),
		     void *context);
/* Kills everything in it until it is empty; the caller must not be in it. */
/* The same, but for some; all others are gone when it returns 0. */
int pr_cgroups_kill_but(const struct pr_cgroups *groups, const pid_t *spared, int count);
int pr_cgroups_kill(const struct pr_cgroups *groups);

/* Lifts the CPU limits of the cgroup and of its parent (the pod), and notes in a file what they
 * were, so that they come back also if this process does not. */
void pr_cgroups_lift_cpu(const struct pr_cgroups *groups, const char *note);
void pr_cgroups_restore_cpu(const char *note);

#endif
