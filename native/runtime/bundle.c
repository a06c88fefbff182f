/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what the front reads of a bundle's config.json; starts nothing. */
#include "bundle.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "json.h"

#define CONFIG_LIMIT (16u << 20)
#define KIND         "io.kubernetes.cri.container-type"
#define NAMESPACE    "io.kubernetes.cri.sandbox-namespace"
#define MANAGED      "podferry.dev/managed"

void pr_bundle_judge(const char *text, size_t bytes, const struct pr_settings *settings,
		     struct pr_bundle *bundle)
{
	static const char *const terminal[] = {"process", "terminal", NULL};
	struct pr_span document, notes, value;
	char name[256];
	*bundle = (struct pr_bundle){0};
	if (!pr_json_document(text, bytes, &document))
		return;
	if (pr_json_find(document, terminal, &value))
		bundle->terminal = value.bytes == 4 && !memcmp(value.at, "true", 4);
	if (!pr_json_get(document, "annotations", &notes))
		return;
	if (!pr_json_get(notes, KIND, &value) || !pr_json_is(value, "container"))
		return;
	if (!pr_json_get(notes, NAMESPACE, &value) || !pr_json_string(value, name, sizeof name))
		return;
	if (pr_settings_unmanaged(settings, name))
		return;
	bundle->managed = !(pr_json_get(notes, MANAGED, &value) && pr_json_is(value, "false"));
}

static int read_config(const char *directory, char *path, size_t size, struct pr_blob *blob)
{
	int failed = pr_format(path, size, "%s/config.json", directory);
	return failed ? failed : pr_read_file(path, CONFIG_LIMIT, blob);
}

int pr_bundle_read(const char *directory, const struct pr_settings *settings,
		   struct pr_bundle *bundle)
{
	char path[PR_PATH_BYTES];
	struct pr_blob blob;
	*bundle = (struct pr_bundle){0};
	int failed = read_config(directory, path, sizeof path, &blob);
	if (failed)
		return failed;
	pr_bundle_judge(blob.at, blob.bytes, settings, bundle);
	pr_blob_free(&blob);
	return 0;
}

/* "/proc/PID/ns/NAME": the pid, or -1; *name is what follows the pid. */
static pid_t named_process(const char *path, const char **name)
{
	char number[16];
	if (strncmp(path, "/proc/", 6))
		return -1;
	*name = strchr(path + 6, '/');
	if (!*name || strncmp(*name, "/ns/", 4) || *name - path - 6 >= (long)sizeof number)
		return -1;
	memcpy(number, path + 6, (size_t)(*name - path - 6));
	number[*name - path - 6] = '\0';
	return (pid_t)pr_number(number);
}

char *pr_bundle_retarget(const char *text, size_t bytes, pr_resolve resolve, void *context,
			 size_t *made, int *failed)
{
	static const char *const where[] = {"linux", "namespaces", NULL};
	struct pr_span document, list, one, value;
	const char *cursor = NULL, *from = text, *name = NULL;
	bool changed = false;
	char path[512], place[560];
	*failed = 0;
	if (!pr_json_document(text, bytes, &document) || !pr_json_find(document, where, &list))
		return NULL;
	size_t room = bytes + 1024, used = 0;
	char *out = malloc(room);
	if (!out)
		*failed = -ENOMEM;
	while (!*failed && pr_json_element(list, &cursor, &one)) {
		if (!pr_json_get(one, "path", &value) || !pr_json_string(value, path, sizeof path))
			continue;
		pid_t pid = named_process(path, &name);
		pid_t meant = pid > 0 ? resolve(pid, context) : pid;
		if (pid <= 0 || meant == pid)
			continue;
		int length = snprintf(place, sizeof place, "\"/proc/%d%s\"", (int)meant, name);
		size_t kept = (size_t)(value.at - from);
		if (meant <= 0 ||
		    used + kept + (size_t)length + bytes - (size_t)(value.at - text) > room) {
			*failed = meant <= 0 ? -ESRCH : -E2BIG;
			break;
		}
		memcpy(out + used, from, kept);
		memcpy(out + used + kept, place, (size_t)length);
		used += kept + (size_t)length;
		from = value.at + value.bytes;
		changed = true;
	}
	if (*failed || !changed) {
		free(out);
		return NULL;
	}
	memcpy(out + used, from, (size_t)(text + bytes - from));
	*made = used + (size_t)(text + bytes - from);
	return out;
}

int pr_bundle_retarget_file(const char *directory, pr_resolve resolve, void *context)
{
	char path[PR_PATH_BYTES];
	struct pr_blob blob;
	size_t made;
	int failed = read_config(directory, path, sizeof path, &blob);
	if (failed)
		return failed;
	char *text = pr_bundle_retarget(blob.at, blob.bytes, resolve, context, &made, &failed);
	pr_blob_free(&blob);
	if (text)
		failed = pr_write_atomic(path, text, made, 0600);
	free(text);
	return failed;
}
