/* SPDX-License-Identifier: Apache-2.0 */
/* A child that waits to be looked at, for the probes. */
#pragma once

#include <sys/types.h>

#include "podferry/error.h"

struct pf_child {
	pid_t pid;     /* 0: none */
	int status_fd; /* what the child wrote; -1: none */
};

/* Forks a child that calls BODY once, sends its value and sleeps until it is killed. BODY may only
 * make system calls: the parent may have threads. */
int pf_child_start(struct pf_child *child, int (*body)(void *), void *argument,
		   struct pf_error *err);

/* Waits for the value that the child's body returned. */
int pf_child_value(struct pf_child *child, int *value, struct pf_error *err);

/* Kills and reaps the child; for PF_AUTO_CHILD. */
void pf_child_end(struct pf_child *child);

#define PF_AUTO_CHILD __attribute__((cleanup(pf_child_end)))
#define PF_CHILD_NONE                                                                              \
	{                                                                                          \
		.pid = 0, .status_fd = -1                                                          \
	}
