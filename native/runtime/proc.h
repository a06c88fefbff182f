/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what is read of single processes: their start, parent, and sockets left in repair. */
#ifndef PR_PROC_H
#define PR_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct pr_proc {
	char state;
	pid_t parent;
	uint64_t start; /* field 22: clock ticks after boot */
};

/* The text of /proc/PID/stat; the command in it may hold anything. */
bool pr_proc_parse(const char *stat, struct pr_proc *proc);
/* 0 or -errno. */
int pr_proc_read(pid_t pid, struct pr_proc *proc);
/* Alive, not a zombie, and the same process as then. */
bool pr_proc_is(pid_t pid, uint64_t start);
/* Whether root is the process itself or one of its ancestors. */
bool pr_proc_descends(pid_t pid, pid_t root);
/* Whether two processes differ in a namespace of that name ("time", "cgroup"). */
bool pr_proc_other_namespace(pid_t one, pid_t other, const char *name);
/* Takes TCP sockets of a process out of the repair mode that a killed CRIU leaves; how many. */
int pr_proc_clear_repair(pid_t pid);

int pr_pidfd_open(pid_t pid);
int pr_pidfd_signal(int pidfd, int signal);

#endif
