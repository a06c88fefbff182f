/* SPDX-License-Identifier: Apache-2.0 */
/* Owns `create` of a managed container. */
#ifndef PR_CREATE_H
#define PR_CREATE_H

#include "argv.h"
#include "bundle.h"
#include "settings.h"

/* Starts the monitor, which runs runc's create below itself; gives runc's exit status. lease: a
 * descriptor that only the caller may hold, or -1. */
int pr_create(const struct pr_call *call, int argc, char **argv, const struct pr_settings *settings,
	      const char *runc, const char *directory, int lease, const struct pr_bundle *bundle);

#endif
