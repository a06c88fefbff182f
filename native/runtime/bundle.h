/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what the front reads of a bundle's config.json, and the one thing it changes there. */
#ifndef PR_BUNDLE_H
#define PR_BUNDLE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "settings.h"

struct pr_bundle {
	bool managed; /* a workload container that gets a monitor */
	bool terminal;
};

/* Decides from config.json's text; what is not well-formed is not managed. */
void pr_bundle_judge(const char *text, size_t bytes, const struct pr_settings *settings,
		     struct pr_bundle *bundle);
int pr_bundle_read(const char *directory, const struct pr_settings *settings,
		   struct pr_bundle *bundle);

/* Gives the process whose namespaces a path in /proc/PID/ns means; the same pid if it is nobody
 * we know; negative: refuse. */
typedef pid_t (*pr_resolve)(pid_t pid, void *context);
/* Rewrites linux.namespaces[].path where resolve gives another process. The malloc'd new text,
 * or NULL: with *failed == 0 nothing was to be changed. */
char *pr_bundle_retarget(const char *text, size_t bytes, pr_resolve resolve, void *context,
			 size_t *made, int *failed);
int pr_bundle_retarget_file(const char *directory, pr_resolve resolve, void *context);

#endif
