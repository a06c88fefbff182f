/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what is read of single processes; knows nothing of containers. */
#include "proc.h"

#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bytes.h"

#ifndef TCP_REPAIR_OFF_NO_WP
#define TCP_REPAIR_OFF_NO_WP -1
#endif

bool pr_proc_parse(const char *stat, struct pr_proc *proc)
{
	const char *at = strrchr(stat, ')');
	if (!at || at[1] != ' ' || !at[2])
		return false;
	proc->state = at[2];
	at += 3;
	for (int field = 4; field <= 22; field++) {
		char *end;
		errno = 0;
		unsigned long long value = strtoull(at, &end, 10);
		if (end == at || errno)
			return false;
		if (field == 4)
			proc->parent = (pid_t)value;
		if (field == 22)
			proc->start = value;
		at = end;
	}
	return true;
}

int pr_proc_read(pid_t pid, struct pr_proc *proc)
{
	char path[48], text[1024];
	int failed = pr_format(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (failed)
		return failed;
	ssize_t bytes = pr_read_small(path, text, sizeof text);
	if (bytes < 0)
		return (int)bytes;
	return pr_proc_parse(text, proc) ? 0 : -EINVAL;
}

bool pr_proc_is(pid_t pid, uint64_t start)
{
	struct pr_proc proc;
	return pid > 0 && pr_proc_read(pid, &proc) == 0 && proc.start == start &&
	       proc.state != 'Z' && proc.state != 'X';
}

bool pr_proc_descends(pid_t pid, pid_t root)
{
	for (int depth = 0; pid > 1 && depth < 4096; depth++) {
		struct pr_proc proc;
		if (pid == root)
			return true;
		if (pr_proc_read(pid, &proc) < 0)
			return false;
		pid = proc.parent;
	}
	return false;
}

bool pr_proc_other_namespace(pid_t one, pid_t other, const char *name)
{
	char path[64];
	struct stat first, second;
	if (pr_format(path, sizeof path, "/proc/%d/ns/%s", (int)one, name) ||
	    stat(path, &first) < 0)
		return false;
	if (pr_format(path, sizeof path, "/proc/%d/ns/%s", (int)other, name) ||
	    stat(path, &second) < 0)
		return false;
	return first.st_ino != second.st_ino || first.st_dev != second.st_dev;
}

int pr_pidfd_open(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	return fd < 0 ? -errno : fd;
}

int pr_pidfd_signal(int pidfd, int signal)
{
	return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

static bool clear_one(int pidfd, int number)
{
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
	if (fd < 0)
		return false;
	int repair = 0;
	socklen_t size = sizeof repair;
	bool cleared = false;
	if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &repair, &size) == 0 && repair == 1) {
		/* Without a window probe: the peer must not learn that anything has happened. */
		int off = TCP_REPAIR_OFF_NO_WP;
		cleared = setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof off) == 0;
	}
	close(fd);
	return cleared;
}

int pr_proc_clear_repair(pid_t pid)
{
	char path[48], target[64];
	if (pr_format(path, sizeof path, "/proc/%d/fd", (int)pid))
		return 0;
	DIR *dir = opendir(path);
	if (!dir)
		return 0;
	int pidfd = pr_pidfd_open(pid), cleared = 0;
	for (struct dirent *entry; pidfd >= 0 && (entry = readdir(dir));) {
		long number = pr_number(entry->d_name);
		if (number < 0)
			continue;
		ssize_t length = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);
		if (length < 7 || memcmp(target, "socket:", 7))
			continue;
		if (clear_one(pidfd, (int)number))
			cleared++;
	}
	if (pidfd >= 0)
		close(pidfd);
	closedir(dir);
	return cleared;
}
