/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what the front is told by its one file, and where things stand. */
#ifndef PR_SETTINGS_H
#define PR_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>

#define PR_SETTINGS_FILE "/etc/podferry/runtime.conf"
#define PR_STATE_ROOT    "/run/podferry/monitors"
#define PR_CLAIM_ROOT    "/run/podferry/claims"

/* The file has lines "unmanaged NAMESPACE", "runc PATH", "criu PATH"; "#" starts a comment.
 * Without a file, kube-system is unmanaged. An unreadable file manages nothing. */
struct pr_settings {
	char runc[256]; /* "" is: look along PATH */
	char criu[256];
	char unmanaged[4096]; /* names, each ended by '\n' */
};

void pr_settings_parse(const char *text, struct pr_settings *settings);
/* False if the file is there and cannot be read. */
bool pr_settings_load(struct pr_settings *settings);
bool pr_settings_unmanaged(const struct pr_settings *settings, const char *name);

/* Finds a program along PATH and the usual places, passing over this very program. */
bool pr_find_program(const char *name, char *out, size_t size);

#endif
