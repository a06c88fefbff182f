/* SPDX-License-Identifier: Apache-2.0 */
/* Clean-up at the end of a scope, in place of goto ladders. */
#pragma once

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static inline void pf_cleanup_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void pf_cleanup_free(void *pointer_to_pointer)
{
	free(*(void **)pointer_to_pointer);
}

struct pf_mapping {
	void *start; /* MAP_FAILED: none */
	size_t bytes;
};

static inline void pf_cleanup_mapping(struct pf_mapping *mapping)
{
	if (mapping->start != MAP_FAILED)
		munmap(mapping->start, mapping->bytes);
}

#define PF_AUTO_FD      __attribute__((cleanup(pf_cleanup_fd)))
#define PF_AUTO_FREE    __attribute__((cleanup(pf_cleanup_free)))
#define PF_AUTO_MAPPING __attribute__((cleanup(pf_cleanup_mapping)))
