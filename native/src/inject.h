/* SPDX-License-Identifier: Apache-2.0 */
/* A userfaultfd of another process, made by itself without its knowledge. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "podferry/error.h"

/* FD gets a userfaultfd of PID's memory, not yet initialised (UFFDIO_API); PID has it no more.
 * PID's main thread is stopped for STOPPED_NS. */
int pf_inject_userfaultfd(pid_t pid, int *fd, uint64_t *stopped_ns, struct pf_error *err);
