/* SPDX-License-Identifier: Apache-2.0 */
/* Reads pages of another process, running or stopped. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

struct pf_page {
	uint64_t vaddr;
	unsigned char *at; /* where its bytes go */
	bool gone;         /* it was not there */
};

struct pf_reader {
	int pid;
	int memory_fd; /* /proc/PID/mem, opened when it is needed; -1: not yet */
};

/* Fills the pages. -ESRCH: the process has ended. */
int pf_reader_read(struct pf_reader *reader, struct pf_page *pages, size_t count,
		   struct pf_error *err);
void pf_reader_close(struct pf_reader *reader);

bool pf_page_is_zero(const unsigned char *page);
