// SPDX-License-Identifier: Apache-2.0
/* Owns the suspicion that pages are pinned for a device, and what follows from it. */
#include "pins.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"

static const char *const long_lived_names[] = {"/dev/infiniband/", "/dev/vfio/", "/dev/vhost"};

static bool begins_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* "flags:\t0140002", octal, in /proc/PID/fdinfo/N */
static bool is_direct(int proc, const char *number)
{
	char path[32], text[256];
	const char *flags;
	ssize_t got;
	PF_AUTO_FD int fd = -1;

	snprintf(path, sizeof(path), "fdinfo/%.16s", number);
	fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (got < 0)
		return false;
	text[got] = '\0';
	flags = strstr(text, "flags:");
	return flags && strtoull(flags + strlen("flags:"), NULL, 8) & O_DIRECT;
}

static void look_at(struct pf_pins *pins, int proc, const char *number)
{
	char path[32], target[64];
	ssize_t length;

	snprintf(path, sizeof(path), "fd/%.16s", number);
	length = readlinkat(proc, path, target, sizeof(target) - 1);
	if (length < 0)
		return;
	target[length] = '\0';
	if (begins_with(target, "anon_inode:[io_uring]"))
		pins->short_lived = true;
	for (size_t i = 0; i < sizeof(long_lived_names) / sizeof(long_lived_names[0]); i++)
		if (begins_with(target, long_lived_names[i]))
			pins->long_lived = true;
	if (target[0] == '/' && !pins->short_lived && is_direct(proc, number))
		pins->short_lived = true;
}

static void look_at_files(struct pf_pins *pins, pid_t pid)
{
	char path[32];
	PF_AUTO_FD int proc = -1;
	int list;
	DIR *directory;
	const struct dirent *entry;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	proc = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	list = proc < 0 ? -1 : openat(proc, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	directory = list < 0 ? NULL : fdopendir(list);
	if (!directory) {
		if (list >= 0)
			close(list);
		return;
	}
	while ((entry = readdir(directory)) && !(pins->short_lived && pins->long_lived))
		if (entry->d_name[0] != '.')
			look_at(pins, proc, entry->d_name);
	closedir(directory);
}

void pf_pins_glance(struct pf_pins *pins, pid_t pid)
{
	uint64_t pinned_kb = 0;

	if (pf_proc_status(pid, "VmPin:", 10, &pinned_kb) == 0 && pinned_kb > 0)
		pins->long_lived = true;
}

void pf_pins_look(struct pf_pins *pins, pid_t pid, const struct pf_vmas *vmas)
{
	pins->long_lived = false;
	for (size_t i = 0; i < vmas->count; i++)
		if (vmas->list[i].kind == PF_MAPPING_AIO)
			pins->short_lived = true;
	look_at_files(pins, pid);
	pf_pins_glance(pins, pid);
}

static bool join(struct pf_runs *into, const struct pf_runs *more)
{
	struct pf_runs united = {0};
	bool fits = pf_runs_unite(&united, into, more, 0);

	pf_runs_free(into);
	*into = united;
	return fits;
}

bool pf_pins_turn(struct pf_pins *pins, const struct pf_runs *found, uint64_t now_ns, bool all,
		  struct pf_runs *again)
{
	bool fits = true;

	if (!pins->short_lived) {
		pins->young.count = pins->old.count = 0;
		return true;
	}
	if (all)
		return pf_runs_unite(again, &pins->old, &pins->young, 0);
	if (now_ns - pins->turned_ns >= PF_PINS_INPUT_NS) {
		struct pf_runs given = pins->old;

		fits = pf_runs_unite(again, &given, &(struct pf_runs){0}, 0);
		pins->old = pins->young;
		pins->young = given;
		pins->young.count = 0;
		pins->turned_ns = now_ns;
	}
	return join(&pins->young, found) && fits;
}

void pf_pins_free(struct pf_pins *pins)
{
	pf_runs_free(&pins->young);
	pf_runs_free(&pins->old);
}
