/* SPDX-License-Identifier: Apache-2.0 */
/* Owns starting processes: with which descriptors, signals, cgroup and namespace they begin. */
#ifndef PR_SPAWN_H
#define PR_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

/* Where a started program finds its descriptors. */
#define PR_FD_RPC   3  /* CRIU: its RPC; pager: its channel to the monitor */
#define PR_FD_STDIO 10 /* 10, 11, 12: the container's stdin, stdout, stderr */
#define PR_FD_GIVEN 20 /* from here on those that came with the request */

#define PR_NOT_EXECUTED 127 /* the exit status of a child that could not become its program */

#define PR_GIVEN_MAX    160
#define PR_ENTER_MAX    8
#define PR_CRIU_FDS_MAX 16 /* with stdio, namespaces and the rest they fit into one message */

struct pr_spawn {
	const char *program;
	char *const *argv;
	int log;      /* becomes stderr; -1 is /dev/null */
	int special;  /* becomes PR_FD_RPC; -1 is none */
	int stdio[3]; /* -1 is none */
	const int *given;
	int given_count;
	const int *enter; /* namespaces, entered in this order */
	int enter_count;
	const char *environment; /* more of it: "NAME=value", one behind the other */
	size_t environment_bytes;
	bool outlives_us; /* else it is killed when this process dies */
};

/* In a fresh child: arranges the descriptors and becomes the program; exits PR_NOT_EXECUTED if
 * it cannot. */
__attribute__((noreturn)) void pr_spawn_become(const struct pr_spawn *spawn);
/* Forks a child of this process that becomes the program; its pid or -errno. */
pid_t pr_spawn_child(const struct pr_spawn *spawn);

/* The placeholder: a process that keeps the sleeping container's cgroup populated, stands in
 * runc's state for its init, and starts CRIU as its own sibling, inside that cgroup. */
struct pr_placeholder {
	pid_t pid;
	int socket;
	bool joined; /* it is in the container's cgroup */
};

/* It is not in the cgroup yet. cgroup_ns: a descriptor, or -1. keyring: a fresh session keyring
 * for what it starts. kept: a descriptor that it holds open, or -1. 0 or -errno. */
int pr_placeholder_start(struct pr_placeholder *placeholder, int cgroup_ns, bool keyring, int kept);
/* CRIU's pid, a child of the caller; or -errno. */
pid_t pr_placeholder_spawn(const struct pr_placeholder *placeholder, const struct pr_spawn *spawn);

#endif
