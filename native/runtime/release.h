/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the release actions: what the kernel is told once the container runs again. */
#ifndef PR_RELEASE_H
#define PR_RELEASE_H

#include <stddef.h>
#include <stdint.h>

#include "wire.h"

/* Whether an item is a well-formed action on one of count descriptors. */
int pr_release_check(const struct pr_view *item, int count);
/* Carries it out: 0 or -errno. */
int pr_release_run(const struct pr_view *item, const int *fds);

#endif
