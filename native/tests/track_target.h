/* SPDX-License-Identifier: Apache-2.0 */
/* Processes to be tracked that notice when somebody meddles with them. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

enum target_works {
	TARGET_SPINS,        /* checks every register and the red zone, over and over */
	TARGET_SLEEPS,       /* nanosleep: restarted by the kernel through its restart block */
	TARGET_POLLS,        /* poll with a deadline */
	TARGET_SELECTS,      /* pselect with a signal mask */
	TARGET_WAITS_EPOLL,  /* epoll_wait without end: the kernel says EINTR for no reason */
	TARGET_WAITS_EVENT,  /* epoll_pwait with a deadline */
	TARGET_WAITS_FUTEX,  /* futex with a deadline */
	TARGET_READS,        /* read from an empty pipe */
	TARGET_RECEIVES,     /* recv with SO_RCVTIMEO: the kernel says EINTR for no reason */
	TARGET_WAITS_SIGNAL, /* sigtimedwait */
	TARGET_CALLS,        /* getppid, write and read through a pipe, as quickly as possible */
	TARGET_WORKS,
};

/* Shared with the target. */
struct target_report {
	volatile uint64_t turns;  /* waits that ended as they should, loops without a finding */
	volatile uint64_t faults; /* EINTR, a wait that was too short, a register that changed */
	volatile int last_errno;
	volatile int may_end;
};

struct target {
	pid_t pid;
	enum target_works work;
	struct target_report *report;
	int wake; /* written to once per wait without a deadline */
};

const char *target_name(enum target_works work);

void target_start(struct target *target, enum target_works work);

/* Waits until it has done some turns more, waking it where it waits without a deadline. */
void target_expect_progress(struct target *target);

/* Ends it; fails the test if it has found a fault, or does not end by itself. */
void target_end(struct target *target);

/* How many descriptors of the target are userfaultfds. */
int target_userfaultfds(const struct target *target);
