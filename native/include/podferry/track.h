/* SPDX-License-Identifier: Apache-2.0 */
/* What a running process has written: the source side of memory that is copied ahead.
 *
 * A tracker covers the memory that CRIU's lazy dump leaves out: private anonymous mappings, not of
 * huge pages (hugetlb). CRIU dumps a little of it nevertheless: what is locked, and the page of each
 * thread's stack pointer. A tracker gives pages by rounds; what a round has given counts as sent.
 * Read the pages after the round, never before it: a page that is written after the round is given
 * by the next one.
 *
 * A tracker is used by one thread at a time, which need not be the same (pf_tracker_note may be
 * called by several at once, between rounds). docs/memory.md has the whole picture. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "podferry/error.h"
#include "podferry/run.h"

struct pf_tracker;

enum pf_tracker_modes {
	PF_TRACKER_AUTO = 0,     /* the best that works */
	PF_TRACKER_WP_ASYNC = 1, /* userfaultfd's asynchronous write protection, PAGEMAP_SCAN */
	PF_TRACKER_HASH = 2,     /* reads every page and compares its hash */
};

enum pf_tracker_limits {
	PF_TRACKER_REASON_BYTES = 512,
};

/* What one round found; the arrays are the tracker's, valid until its next call. */
struct pf_round {
	const struct pf_run *runs; /* to send, by ascending address */
	size_t run_count;
	const struct pf_run *gone; /* sent before, no longer there */
	size_t gone_count;
	uint64_t pages;            /* in RUNS */
	uint64_t dirty_pages;      /* of them: in mappings that were known before */
	uint64_t zero_pages;       /* of them: PF_RUN_ZERO */
	uint64_t suspect_pages;    /* of them: PF_RUN_SUSPECT */
	uint64_t eligible_bytes;   /* length of all mappings that are covered */
	uint64_t registered_bytes; /* of them: were tracked since the round before */
	uint64_t scan_ns;          /* how long this call took */
	uint64_t since_ns;         /* since the round before; 0 in the first one */
	uint32_t mapping_count;
	uint32_t number; /* counts the rounds from 1 */
};

/* MODE is one of pf_tracker_modes. PID is stopped once, for some tenths of a millisecond, if the
 * mode is WP_ASYNC. Every mode but AUTO fails where it does not work. */
int pf_tracker_open(struct pf_tracker **out, pid_t pid, int mode, struct pf_error *err);

/* Takes the write protection off again and lets go. NULL is allowed. */
void pf_tracker_close(struct pf_tracker *tracker);

/* The mode that is in use; it may become HASH in a round, where the process begins to use
 * userfaultfd itself. */
int pf_tracker_mode(const struct pf_tracker *tracker);

/* Why no better mode is in use, "" if there is none; the text is the tracker's. */
const char *pf_tracker_reason(const struct pf_tracker *tracker);

/* How long the process was stopped by pf_tracker_open; 0 if it was not. */
uint64_t pf_tracker_stopped_ns(const struct pf_tracker *tracker);

/* Gives what was written since the round before, or everything in the first one. -ESRCH: the
 * process has ended; -ESTALE: it executed another program, open another tracker. After any failure
 * the next round gives everything. */
int pf_tracker_round(struct pf_tracker *tracker, struct pf_round *out, struct pf_error *err);

/* The same while every task of the process is stopped, as quickly as possible: protects nothing
 * again. Rounds may follow, if the process goes on after all: they give its pages once more. */
int pf_tracker_final(struct pf_tracker *tracker, struct pf_round *out, struct pf_error *err);

/* The next round gives everything: what was sent is lost. */
void pf_tracker_forget(struct pf_tracker *tracker);

/* For HASH alone, nothing in other modes: these are the bytes of RUNS that were sent, one page
 * after the other, as pf_read_pages gave them with STATES. Without it HASH gives a page in every
 * round: only the reader knows which bytes went, as they change while they are looked at. */
void pf_tracker_note(struct pf_tracker *tracker, const struct pf_run *runs, size_t run_count,
		     const void *pages, const uint8_t *states);

enum pf_page_states {
	PF_PAGE_READ = 0,
	PF_PAGE_ZERO = 1, /* read, and all zeros */
	PF_PAGE_GONE = 2, /* there is no such page any more; its place in the buffer is zeroed */
};

/* Reads RUNS of a process, one page after the other, into BUFFER, which has room for all of them;
 * STATES gets one of pf_page_states for each page. Runs with PF_RUN_ZERO are read too. Pages
 * without access rights are read as others are. Returns how many bytes are of pages that are there;
 * -ESRCH: the process has ended. */
int64_t pf_read_pages(pid_t pid, const struct pf_run *runs, size_t run_count, void *buffer,
		      size_t buffer_bytes, uint8_t *states, struct pf_error *err);

/* 1 if both processes work in one memory, as between vfork and execve; 0 if not, or if one of them
 * has ended. */
int pf_same_memory(pid_t one, pid_t other, struct pf_error *err);
