/* SPDX-License-Identifier: Apache-2.0 */
/* Owns runc's state.json: edits the few values that change and leaves every other byte alone. */
#include "runc_state.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"

#define STATE_LIMIT (4u << 20)
#define EDITS_MAX   32

int pr_runc_state_read(const char *path, struct pr_runc_state *state)
{
	struct pr_blob blob;
	struct pr_span document, pid, start, paths;
	uint64_t number;
	*state = (struct pr_runc_state){0};
	int failed = pr_read_file(path, STATE_LIMIT, &blob);
	if (failed)
		return failed;
	failed = -EINVAL;
	if (pr_json_document(blob.at, blob.bytes, &document) &&
	    pr_json_get(document, "init_process_pid", &pid) && pr_json_unsigned(pid, &number) &&
	    number > 0 && number < INT32_MAX &&
	    pr_json_get(document, "init_process_start", &start) &&
	    pr_json_unsigned(start, &state->start) &&
	    pr_json_get(document, "cgroup_paths", &paths)) {
		state->init = (pid_t)number;
		failed = pr_cgroups_from_paths(paths, &state->groups);
	}
	pr_blob_free(&blob);
	return failed;
}

/* One replacement: the bytes from at on give way to text. */
struct edit {
	const char *at;
	size_t gone;
	char text[64];
};

struct edits {
	struct edit all[EDITS_MAX];
	int count;
};

__attribute__((format(printf, 4, 5))) static bool note(struct edits *edits, const char *at,
						       size_t gone, const char *format, ...)
{
	if (edits->count == EDITS_MAX)
		return false;
	struct edit *edit = &edits->all[edits->count++];
	edit->at = at;
	edit->gone = gone;
	va_list arguments;
	va_start(arguments, format);
	int n = vsnprintf(edit->text, sizeof edit->text, format, arguments);
	va_end(arguments);
	return n >= 0 && (size_t)n < sizeof edit->text;
}

/* "/proc/OLD/ns/net" becomes "/proc/NEW/ns/net"; OLD is whatever process stood there. */
static bool note_paths(struct edits *edits, struct pr_span paths, pid_t pid)
{
	const char *cursor = NULL;
	struct pr_span key, value;
	while (pr_json_member(paths, &cursor, &key, &value)) {
		char path[PR_PATH_BYTES];
		if (!pr_json_string(value, path, sizeof path) || strncmp(path, "/proc/", 6))
			continue;
		const char *name = strstr(path, "/ns/");
		if (!name || strlen(name) > 32)
			continue;
		if (!note(edits, value.at, value.bytes, "\"/proc/%d%s\"", (int)pid, name))
			return false;
	}
	return true;
}

/* runc exec joins the namespaces that the configuration lists. */
static bool note_time(struct edits *edits, struct pr_span document)
{
	static const char *const where[] = {"config", "namespaces", NULL};
	struct pr_span list, one, type;
	const char *cursor = NULL;
	if (!pr_json_find(document, where, &list) || *list.at != '[')
		return false;
	bool empty = true;
	while (pr_json_element(list, &cursor, &one)) {
		empty = false;
		if (pr_json_get(one, "type", &type) && pr_json_is(type, "NEWTIME"))
			return true;
	}
	return note(edits, list.at + list.bytes - 1, 0, "%s{\"type\":\"NEWTIME\",\"path\":\"\"}",
		    empty ? "" : ",");
}

static bool note_time_path(struct edits *edits, struct pr_span paths, pid_t pid)
{
	struct pr_span known;
	if (pr_json_get(paths, "NEWTIME", &known))
		return true;
	bool empty = !memchr(paths.at, '"', paths.bytes);
	return note(edits, paths.at + paths.bytes - 1, 0, "%s\"NEWTIME\":\"/proc/%d/ns/time\"",
		    empty ? "" : ",", (int)pid);
}

static int by_place(const void *one, const void *other)
{
	const struct edit *a = one, *b = other;
	return a->at < b->at ? -1 : a->at > b->at;
}

static char *apply(const char *text, size_t bytes, struct edits *edits, size_t *made)
{
	qsort(edits->all, (size_t)edits->count, sizeof edits->all[0], by_place);
	size_t room = bytes;
	for (int i = 0; i < edits->count; i++)
		room += strlen(edits->all[i].text);
	char *out = malloc(room + 1);
	if (!out)
		return NULL;
	size_t used = 0;
	const char *from = text;
	for (int i = 0; i < edits->count; i++) {
		const struct edit *edit = &edits->all[i];
		memcpy(out + used, from, (size_t)(edit->at - from));
		used += (size_t)(edit->at - from);
		memcpy(out + used, edit->text, strlen(edit->text));
		used += strlen(edit->text);
		from = edit->at + edit->gone;
	}
	memcpy(out + used, from, (size_t)(text + bytes - from));
	*made = used + (size_t)(text + bytes - from);
	return out;
}

char *pr_runc_state_edit(const char *text, size_t bytes, pid_t expected,
			 const struct pr_new_init *init, size_t *made)
{
	struct edits edits = {.count = 0};
	struct pr_span document, pid, start, paths;
	uint64_t number;
	if (!pr_json_document(text, bytes, &document) ||
	    !pr_json_get(document, "init_process_pid", &pid) || !pr_json_unsigned(pid, &number) ||
	    number != (uint64_t)expected || !pr_json_get(document, "init_process_start", &start) ||
	    !pr_json_get(document, "namespace_paths", &paths) || *paths.at != '{')
		return NULL;
	bool noted = note(&edits, pid.at, pid.bytes, "%d", (int)init->pid) &&
		     note(&edits, start.at, start.bytes, "%llu", (unsigned long long)init->start);
	if (init->own_namespaces)
		noted = noted && note_paths(&edits, paths, init->pid);
	if (init->time_namespace)
		noted = noted && note_time(&edits, document) &&
			note_time_path(&edits, paths, init->pid);
	return noted ? apply(text, bytes, &edits, made) : NULL;
}

int pr_runc_state_rewrite(const char *path, pid_t expected, const struct pr_new_init *init)
{
	struct pr_blob blob;
	int failed = pr_read_file(path, STATE_LIMIT, &blob);
	if (failed)
		return failed;
	size_t made = 0;
	char *text = pr_runc_state_edit(blob.at, blob.bytes, expected, init, &made);
	pr_blob_free(&blob);
	if (!text)
		return -ESTALE;
	failed = pr_write_atomic(path, text, made, 0600);
	free(text);
	return failed;
}
