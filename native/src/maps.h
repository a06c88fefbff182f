/* SPDX-License-Identifier: Apache-2.0 */
/* The mappings of a process, as /proc/PID/maps tells them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "podferry/error.h"

enum pf_mapping_kinds {
	PF_MAPPING_OTHER = 0,
	PF_MAPPING_ANONYMOUS,  /* private, of no file */
	PF_MAPPING_FILE,       /* of a file; shared anonymous memory is one too */
	PF_MAPPING_AIO,        /* the ring of the old asynchronous I/O */
	PF_MAPPING_MAIN_STACK, /* anonymous, "[stack]" */
};

struct pf_vma {
	uint64_t start;
	uint64_t end;
	uint8_t kind;
	bool writable;
	bool executable;
};

struct pf_vmas {
	struct pf_vma *list; /* by ascending address */
	size_t count;
	size_t room;
	char *text;
	size_t text_room;
};

/* Whether CRIU's lazy dump leaves its pages to us (vma_entry_can_be_lazy, criu/include/vma.h of 4.2).
 * Locked mappings it does not, but which are locked is told by smaps alone, which takes as long as a
 * scan of all pages: they are covered too. */
static inline bool pf_vma_is_covered(const struct pf_vma *vma)
{
	return vma->kind == PF_MAPPING_ANONYMOUS || vma->kind == PF_MAPPING_MAIN_STACK;
}

/* Reads FD, an open maps, from its beginning; VMAS is filled anew and keeps its memory.
 * No mappings: the process has ended, or executed another program since FD was opened. */
int pf_vmas_read(struct pf_vmas *vmas, int fd, struct pf_error *err);

void pf_vmas_free(struct pf_vmas *vmas);

#define PF_AUTO_VMAS __attribute__((cleanup(pf_vmas_free)))

/* Opens /proc/PID/NAME for reading. */
int pf_proc_open(pid_t pid, const char *name, int *fd, struct pf_error *err);

/* The number behind NAME ("VmLck:") in /proc/PID/status, in BASE; -ENOENT if it is not there. */
int pf_proc_status(pid_t pid, const char *name, int base, uint64_t *out);
