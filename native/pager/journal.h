/* SPDX-License-Identifier: Apache-2.0 */
/* What a second pager needs to go on after a kill -9: which processes there are, and every change
 * of their address spaces that the kernel has told. docs/pager.md has the byte layout.
 *
 * A descriptor or an event can be read only once, and its reader may be killed right after. So
 * the kernel writes it straight into the journal's next record: either the read has not happened,
 * or the record tells of it. */
#pragma once

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>

#include "error.h"

#define JOURNAL_MAGIC   "PFPAGER\1"
#define JOURNAL_RECORDS 262144u

enum journal_kind {
	JOURNAL_NONE = 0,
	JOURNAL_INTAKE = 1,   /* number: a pid, or CRIU's word that all is restored */
	JOURNAL_PROCESS = 2,  /* number: the pid whose images belong to the new space */
	JOURNAL_EVENT = 3,    /* message: what the kernel said of the space */
	JOURNAL_OVER = 4,     /* the space is complete, or its process is gone */
	JOURNAL_RESTORED = 5, /* CRIU's restore is complete */
};

struct journal_record {
	uint32_t kind;
	uint32_t space;
	uint32_t number;
	uint32_t reserved;
	struct uffd_msg message;
};

struct journal_head {
	char magic[8];
	uint32_t record_bytes;
	uint32_t capacity;
	uint64_t count; /* records that are complete; the one behind them may be under way */
	uint64_t overflowed;
	uint64_t reserved[4];
};

_Static_assert(sizeof(struct journal_record) == 48, "docs/pager.md");
_Static_assert(sizeof(struct journal_head) == 64, "docs/pager.md");

struct journal {
	struct journal_head *head;
	struct journal_record *records;
};

/* Maps PATH, new or, with RESUME, an earlier pager's. Without a path the journal is memory. */
int journal_open(struct journal *journal, const char *path, bool resume, struct pf_error *err);
void journal_close(struct journal *journal);

/* The next record, cleared but for its kind and space; it counts from journal_commit on. */
struct journal_record *journal_next(struct journal *journal, enum journal_kind kind,
				    uint32_t space);
void journal_commit(struct journal *journal);
