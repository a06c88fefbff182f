/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what the front is told; decides nothing. */
#include "settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"

#define USUAL_PLACES "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static void take_line(const char *line, size_t length, struct pr_settings *settings)
{
	char word[16] = "", value[256] = "";
	size_t key = 0;
	while (key < length && line[key] != ' ' && line[key] != '\t')
		key++;
	size_t from = key;
	while (from < length && (line[from] == ' ' || line[from] == '\t'))
		from++;
	while (length > from && (line[length - 1] == ' ' || line[length - 1] == '\r'))
		length--;
	if (key >= sizeof word || length - from >= sizeof value || length == from)
		return;
	memcpy(word, line, key);
	memcpy(value, line + from, length - from);
	if (!strcmp(word, "runc"))
		memcpy(settings->runc, value, sizeof value);
	if (!strcmp(word, "criu"))
		memcpy(settings->criu, value, sizeof value);
	size_t used = strlen(settings->unmanaged), size = strlen(value);
	if (!strcmp(word, "unmanaged") && used + size + 2 < sizeof settings->unmanaged) {
		memcpy(settings->unmanaged + used, value, size);
		memcpy(settings->unmanaged + used + size, "\n", 2);
	}
}

void pr_settings_parse(const char *text, struct pr_settings *settings)
{
	*settings = (struct pr_settings){0};
	for (const char *line = text; *line;) {
		size_t length = strcspn(line, "\n");
		if (*line != '#')
			take_line(line, length, settings);
		line += length + (line[length] == '\n');
	}
}

bool pr_settings_load(struct pr_settings *settings)
{
	char text[8192];
	ssize_t bytes = pr_read_small(PR_SETTINGS_FILE, text, sizeof text);
	pr_settings_parse(bytes < 0 ? "unmanaged kube-system\n" : text, settings);
	return bytes >= 0 || bytes == -ENOENT;
}

bool pr_settings_unmanaged(const struct pr_settings *settings, const char *name)
{
	for (const char *at = settings->unmanaged; *at;) {
		size_t length = strcspn(at, "\n");
		if (strlen(name) == length && !memcmp(at, name, length))
			return true;
		at += length + 1;
	}
	return false;
}

static bool usable(const char *path, const struct stat *self)
{
	struct stat about;
	if (stat(path, &about) < 0 || !S_ISREG(about.st_mode) || access(path, X_OK) < 0)
		return false;
	return about.st_ino != self->st_ino || about.st_dev != self->st_dev;
}

static bool find_along(const char *places, const char *name, const struct stat *self, char *out,
		       size_t size)
{
	for (const char *at = places; *at;) {
		size_t length = strcspn(at, ":");
		if (length && !pr_format(out, size, "%.*s/%s", (int)length, at, name) &&
		    usable(out, self))
			return true;
		at += length + (at[length] == ':');
	}
	return false;
}

bool pr_find_program(const char *name, char *out, size_t size)
{
	struct stat self = {0};
	const char *path = getenv("PATH");
	if (stat("/proc/self/exe", &self) < 0)
		return false;
	return (path && find_along(path, name, &self, out, size)) ||
	       find_along(USUAL_PLACES, name, &self, out, size);
}
