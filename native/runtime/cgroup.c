/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what is done to cgroups of either version; knows nothing of the monitor's states. */
#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bytes.h"

#define FREEZE_LIMIT_NS 2000000000u
#define KILL_ROUNDS     2000

static bool exists_in(const char *dir, const char *file)
{
	char path[PR_PATH_BYTES];
	return !pr_format(path, sizeof path, "%s/%s", dir, file) && access(path, F_OK) == 0;
}

static int put(const char *dir, const char *file, const char *value)
{
	char path[PR_PATH_BYTES];
	int failed = pr_format(path, sizeof path, "%s/%s", dir, file);
	return failed ? failed : pr_write_existing(path, value, strlen(value));
}

static ssize_t get(const char *dir, const char *file, char *out, size_t size)
{
	char path[PR_PATH_BYTES];
	int failed = pr_format(path, sizeof path, "%s/%s", dir, file);
	return failed ? failed : pr_read_small(path, out, size);
}

static int add(struct pr_cgroups *groups, const char *dir)
{
	for (int i = 0; i < groups->count; i++)
		if (!strcmp(groups->dirs[i], dir))
			return 0;
	if (groups->count == PR_CGROUPS_MAX)
		return -E2BIG;
	char *copy = strdup(dir);
	if (!copy)
		return -ENOMEM;
	groups->dirs[groups->count++] = copy;
	if (exists_in(copy, "freezer.state"))
		groups->freezer = copy, groups->freezer_v2 = false;
	if (!groups->freezer && exists_in(copy, "cgroup.freeze"))
		groups->freezer = copy, groups->freezer_v2 = true;
	if (exists_in(copy, "cpu.cfs_quota_us"))
		groups->cpu = copy, groups->cpu_v2 = false;
	if (!groups->cpu && exists_in(copy, "cpu.max"))
		groups->cpu = copy, groups->cpu_v2 = true;
	return 0;
}

int pr_cgroups_from_paths(struct pr_span paths, struct pr_cgroups *groups)
{
	*groups = (struct pr_cgroups){0};
	const char *cursor = NULL;
	struct pr_span key, value;
	int failed = 0;
	while (!failed && pr_json_member(paths, &cursor, &key, &value)) {
		char dir[PR_PATH_BYTES];
		if (!pr_json_string(value, dir, sizeof dir) || dir[0] != '/')
			failed = -EINVAL;
		/* runc names hierarchies that the machine does not have. */
		if (!failed && exists_in(dir, "cgroup.procs"))
			failed = add(groups, dir);
	}
	if (failed)
		pr_cgroups_free(groups);
	return failed;
}

void pr_cgroups_free(struct pr_cgroups *groups)
{
	for (int i = 0; i < groups->count; i++)
		free(groups->dirs[i]);
	*groups = (struct pr_cgroups){0};
}

/* Whether one of the names in "a,b,c" is among the options "x,a,y". */
static bool shares_name(const char *names, const char *options)
{
	while (*names) {
		size_t length = strcspn(names, ",");
		for (const char *at = options; *at;) {
			size_t size = strcspn(at, ",");
			if (size == length && !memcmp(at, names, length))
				return true;
			at += size + (at[size] == ',');
		}
		names += length + (names[length] == ',');
	}
	return false;
}

/* Copies the word at *at, moves behind it. mountinfo's escapes are not undone: cgroups are not
 * mounted on paths with spaces. */
static bool word(const char **at, char *out, size_t size)
{
	while (**at == ' ')
		(*at)++;
	size_t length = strcspn(*at, " \n");
	if (!length || length >= size)
		return false;
	memcpy(out, *at, length);
	out[length] = '\0';
	*at += length;
	return true;
}

struct mount {
	char root[PR_PATH_BYTES], point[PR_PATH_BYTES], type[32], options[1024];
};

/* "36 35 98:0 /root /point options optional... - type source super" */
static bool parse_mount(const char *line, struct mount *mount)
{
	char skip[1024];
	for (int i = 0; i < 3; i++)
		if (!word(&line, skip, sizeof skip))
			return false;
	if (!word(&line, mount->root, sizeof mount->root))
		return false;
	if (!word(&line, mount->point, sizeof mount->point))
		return false;
	do
		if (!word(&line, skip, sizeof skip))
			return false;
	while (strcmp(skip, "-"));
	return word(&line, mount->type, sizeof mount->type) && word(&line, skip, sizeof skip) &&
	       word(&line, mount->options, sizeof mount->options);
}

/* The directory of "controllers:path" under one of the mounts. */
static int locate(const char *controllers, const char *path, const char *mountinfo,
		  struct pr_cgroups *groups)
{
	static struct mount mount; /* 9 KiB that the stack should not hold */
	for (const char *line = mountinfo; *line;) {
		const char *next = strchr(line, '\n');
		bool v2 = !*controllers;
		if (parse_mount(line, &mount) && !strcmp(mount.type, v2 ? "cgroup2" : "cgroup") &&
		    (v2 || shares_name(controllers, mount.options))) {
			size_t root = strcmp(mount.root, "/") ? strlen(mount.root) : 0;
			if (!strncmp(path, mount.root, root)) {
				char dir[2 * PR_PATH_BYTES];
				int failed = pr_format(dir, sizeof dir, "%s%s", mount.point,
						       path + root);
				return failed ? failed : add(groups, dir);
			}
		}
		line = next ? next + 1 : line + strlen(line);
	}
	return 0; /* not mounted here: nothing to go back to */
}

int pr_cgroups_parse(const char *membership, const char *mountinfo, struct pr_cgroups *groups)
{
	*groups = (struct pr_cgroups){0};
	int failed = 0;
	for (const char *line = membership; !failed && *line;) {
		const char *next = strchr(line, '\n');
		size_t length = next ? (size_t)(next - line) : strlen(line);
		char copy[PR_PATH_BYTES];
		if (length >= sizeof copy)
			return -ENAMETOOLONG;
		memcpy(copy, line, length);
		copy[length] = '\0';
		char *controllers = strchr(copy, ':');
		char *path = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!path)
			return -EINVAL;
		*path++ = '\0';
		failed = locate(controllers + 1, path, mountinfo, groups);
		line = next ? next + 1 : line + length;
	}
	if (failed)
		pr_cgroups_free(groups);
	return failed;
}

int pr_cgroups_of_self(struct pr_cgroups *groups)
{
	size_t size = 1 << 20;
	char membership[PR_PATH_BYTES];
	ssize_t bytes = pr_read_small("/proc/self/cgroup", membership, sizeof membership);
	if (bytes < 0)
		return (int)bytes;
	char *mounts = malloc(size); /* above malloc's threshold: goes back to the kernel at once */
	if (!mounts)
		return -ENOMEM;
	bytes = pr_read_small("/proc/self/mountinfo", mounts, size);
	int failed = bytes < 0 ? (int)bytes : pr_cgroups_parse(membership, mounts, groups);
	free(mounts);
	return failed;
}

int pr_cgroups_join(const struct pr_cgroups *groups, pid_t pid)
{
	char number[16];
	int failed = pr_format(number, sizeof number, "%d", (int)pid);
	for (int i = 0; i < groups->count && !failed; i++)
		failed = put(groups->dirs[i], "cgroup.procs", number);
	return failed;
}

bool pr_cgroups_frozen(const struct pr_cgroups *groups)
{
	char text[512];
	if (!groups->freezer)
		return false;
	const char *file = groups->freezer_v2 ? "cgroup.events" : "freezer.state";
	if (get(groups->freezer, file, text, sizeof text) < 0)
		return false;
	return groups->freezer_v2 ? strstr(text, "frozen 1") != NULL
				  : strncmp(text, "THAWED", 6) != 0;
}

int pr_cgroups_freeze(const struct pr_cgroups *groups)
{
	char text[512];
	if (!groups->freezer)
		return -ENOTSUP;
	uint64_t limit = pr_now_ns() + FREEZE_LIMIT_NS;
	do {
		/* v1 needs the word again while it stands at FREEZING. */
		int failed = groups->freezer_v2 ? put(groups->freezer, "cgroup.freeze", "1")
						: put(groups->freezer, "freezer.state", "FROZEN");
		if (failed)
			return failed;
		const char *file = groups->freezer_v2 ? "cgroup.events" : "freezer.state";
		ssize_t bytes = get(groups->freezer, file, text, sizeof text);
		if (bytes < 0)
			return (int)bytes;
		if (groups->freezer_v2 ? strstr(text, "frozen 1") != NULL
				       : !strncmp(text, "FROZEN", 6))
			return 0;
	} while (pr_now_ns() < limit);
	return -ETIMEDOUT;
}

int pr_cgroups_thaw(const struct pr_cgroups *groups)
{
	if (!groups->freezer)
		return 0;
	return groups->freezer_v2 ? put(groups->freezer, "cgroup.freeze", "0")
				  : put(groups->freezer, "freezer.state", "THAWED");
}

bool pr_cgroups_each(const struct pr_cgroups *groups, bool (*visit)(pid_t pid, void *context),
		     void *context)
{
	char path[PR_PATH_BYTES], line[32];
	const char *dir = groups->freezer ? groups->freezer
			  : groups->count ? groups->dirs[0]
					  : NULL;
	if (!dir || pr_format(path, sizeof path, "%s/cgroup.procs", dir))
		return true;
	FILE *list = fopen(path, "re");
	if (!list)
		return true;
	bool going = true;
	while (going && fgets(line, sizeof line, list)) {
		line[strcspn(line, "\n")] = '\0';
		long pid = pr_number(line);
		if (pid > 0)
			going = visit((pid_t)pid, context);
	}
	fclose(list);
	return going;
}

struct killing {
	const pid_t *spared;
	int count, seen;
};

static bool kill_one(pid_t pid, void *context)
{
	struct killing *killing = context;
	for (int i = 0; i < killing->count; i++)
		if (pid == killing->spared[i])
			return true;
	killing->seen++;
	kill(pid, SIGKILL);
	return true;
}

int pr_cgroups_kill(const struct pr_cgroups *groups)
{
	for (int i = 0; i < groups->count; i++)
		if (exists_in(groups->dirs[i], "cgroup.kill"))
			put(groups->dirs[i], "cgroup.kill", "1");
	return pr_cgroups_kill_but(groups, NULL, 0);
}

int pr_cgroups_kill_but(const struct pr_cgroups *groups, const pid_t *spared, int count)
{
	for (int round = 0; round < KILL_ROUNDS; round++) {
		struct killing killing = {spared, count, 0};
		pr_cgroups_each(groups, kill_one, &killing);
		if (!killing.seen)
			return 0;
		/* A frozen v1 task takes its SIGKILL only once it is thawed. */
		pr_cgroups_thaw(groups);
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	}
	return -ETIMEDOUT;
}

static const char *quota_file(const struct pr_cgroups *groups)
{
	return groups->cpu_v2 ? "cpu.max" : "cpu.cfs_quota_us";
}

static const char *unlimited(const char *file)
{
	size_t length = strlen(file);
	return length >= 7 && !strcmp(file + length - 7, "cpu.max") ? "max" : "-1";
}

void pr_cgroups_lift_cpu(const struct pr_cgroups *groups, const char *note)
{
	char dir[PR_PATH_BYTES], value[64], text[3 * PR_PATH_BYTES];
	char lifted[2][PR_PATH_BYTES];
	size_t used = 0;
	int count = 0;
	if (!groups->cpu || pr_format(dir, sizeof dir, "%s", groups->cpu))
		return;
	for (int level = 0; level < 2; level++) {
		const char *file = quota_file(groups);
		if (get(dir, file, value, sizeof value) < 0)
			break;
		value[strcspn(value, "\n")] = '\0';
		if (strncmp(value, unlimited(file), strlen(unlimited(file)))) {
			if (pr_format(lifted[count], sizeof lifted[count], "%s/%s", dir, file) ||
			    pr_format(text + used, sizeof text - used, "%s %s\n", lifted[count],
				      value))
				return;
			used += strlen(text + used);
			count++;
		}
		char *slash = strrchr(dir, '/');
		if (!slash || slash == dir)
			break;
		*slash = '\0';
	}
	/* First the note: a process that dies between the two leaves limits that are still there. */
	if (!count || pr_write_atomic(note, text, used, 0600))
		return;
	for (int i = 0; i < count; i++)
		pr_write_existing(lifted[i], unlimited(lifted[i]), strlen(unlimited(lifted[i])));
}

static void restore_line(char *line)
{
	char now[64];
	char *value = strchr(line, ' ');
	if (!value)
		return;
	*value++ = '\0';
	/* Somebody who has set a limit in the meantime knows better. */
	if (pr_read_small(line, now, sizeof now) < 0)
		return;
	if (strncmp(now, unlimited(line), strlen(unlimited(line))))
		return;
	pr_write_existing(line, value, strlen(value));
}

void pr_cgroups_restore_cpu(const char *note)
{
	char text[3 * PR_PATH_BYTES];
	if (pr_read_small(note, text, sizeof text) < 0)
		return;
	/* The pod's line stands last and goes first: a child may not exceed its parent (v1). */
	for (char *end = text + strlen(text); end > text;) {
		if (end[-1] == '\n')
			*--end = '\0';
		char *line = end;
		while (line > text && line[-1] != '\n')
			line--;
		restore_line(line);
		end = line;
	}
	unlink(note);
}
