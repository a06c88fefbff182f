/* SPDX-License-Identifier: Apache-2.0 */
/* The pager's whole state and the parts that work on it.
 *
 * One thread (faults.c) takes CRIU's messages and the kernel's, another one (fill.c) places what
 * nobody has asked for yet. Both work under one lock, and reading an event is part of what it
 * covers: the kernel lets a process that removes memory go on as soon as its event is read, so a
 * copy that was decided before and begun after would bring removed bytes back. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "images.h"
#include "journal.h"
#include "protocol.h"
#include "runs.h"
#include "store.h"

#define PAGER_AROUND_BYTES  (64u << 10)  /* what a fault brings with it */
#define PAGER_ZERO_AROUND   16           /* pages */
#define PAGER_FILL_BYTES    (512u << 10) /* what is placed before a fault gets its turn */
#define PAGER_HURRIED_BYTES (128u << 10) /* the same, while faults come */
#define PAGER_HURRIED_STEPS 64
#define PAGER_WINDOW_BYTES  (4u << 20) /* what is read from the store at once */
#define PAGER_MAX_SPACES    65536u
#define PAGER_DEFERRED      64
#define PAGER_RETRY_NS      20000
#define PAGER_GAP_NS        200000 /* how long a blocked copy is tried before the next message */
/* Right after the restore the first answers go before the fill, which rests between its steps
 * while faults come: it would take a processor from who is waited for. */
#define PAGER_GENTLE_NS       40000000
#define PAGER_GENTLE_PAUSE_NS 300000

/* One address space: a process that CRIU restores, or one that such a process has forked. */
struct space {
	uint32_t id;
	int pid;
	int uffd; /* -1 once it is over */
	struct runs runs;
};

struct deferred_fault {
	uint32_t space;
	uint64_t address;
};

struct pager_figures {
	uint64_t placed, zeroed, faults, events;
	int64_t restored_ns;
};

struct pager {
	/* what it was told */
	int root;
	const char *set; /* NULL: the root is a sealed page store */
	int monitor;

	struct image_files files;
	struct journal journal;
	int listener, connection, epoll, bell;
	struct space *spaces[PAGER_MAX_SPACES];
	uint32_t count, live;
	bool restored;
	uint32_t pid_without_fd; /* received from CRIU, its descriptor not yet */
	struct deferred_fault deferred[PAGER_DEFERRED];
	size_t deferred_count;
	struct pager_figures figures;

	pthread_mutex_t next, data;
	pthread_t filler;
	bool filling;
	int code; /* the first failure, with its words */
	struct pf_error error;
};

/* ---- pager.c: spaces and life */
int pager_init(struct pager *pager, struct pf_error *err);
void pager_free(struct pager *pager);
/* The lock, given in the order of asking: a fault waits for one step of the fill at most. */
void pager_take(struct pager *pager);
void pager_release(struct pager *pager);
/* Notes the first failure and lets both threads end. */
void pager_fail(struct pager *pager, const struct pf_error *err);
int pager_add_process(struct pager *pager, int pid, int uffd, struct pf_error *err);
int pager_add_child(struct pager *pager, const struct space *parent, int uffd,
		    struct pf_error *err);
/* Serves the userfaultfd of a space from now on. */
int pager_watch(struct pager *pager, struct space *space, int uffd, struct pf_error *err);
/* The space needs nothing more: nothing is missing in it, or its process is gone. */
void pager_space_over(struct pager *pager, struct space *space);
/* CLOCK_MONOTONIC */
int64_t pager_now_ns(void);

int pager_set_restored(struct pager *pager, struct pf_error *err);
bool pager_is_done(const struct pager *pager);

/* ---- resume.c: what an earlier pager has left */
struct given_fd {
	uint32_t space;
	int fd;
};
int pager_resume(struct pager *pager, const struct given_fd *given, size_t count,
		 struct pf_error *err);
/* Changes the space's bookkeeping as the kernel's message says; a fork is the caller's. */
int pager_apply_event(struct space *space, const struct uffd_msg *message, struct pf_error *err);

/* ---- place.c: the system calls */
enum outcome {
	PLACED,  /* or found to be there already, or to be mapped no longer */
	BLOCKED, /* the address space is changing: read events, try again */
	GONE,    /* the process has ended or executed something else */
	BROKEN,
};
enum outcome place(struct pager *pager, struct space *space, struct piece piece,
		   struct pf_error *err);
enum outcome place_zero(struct pager *pager, struct space *space, uint64_t address,
			struct pf_error *err);
void wake_range(int uffd, uint64_t start, uint64_t bytes);
void wake_all(int uffd);

/* ---- faults.c, fill.c: the threads */
int faults_run(struct pager *pager);
void *fill_run(void *pager);
