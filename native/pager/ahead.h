/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the store ahead of the fill, in a thread of its own: mapping a page of it costs a fifth of
 * placing one, and a disk may have to be waited for. */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "error.h"

/* Bytes of a mapped file. */
struct window {
	const unsigned char *start, *end;
};

struct ahead {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t thread;
	struct window wanted; /* being read, or to be read; none: start is NULL */
	struct window done;
	bool ended;
};

int ahead_start(struct ahead *ahead, struct pf_error *err);
void ahead_stop(struct ahead *ahead);
/* Waits until NOW, or a window that begins there, is in memory and mapped, and has NEXT read. */
struct window ahead_get(struct ahead *ahead, struct window now, struct window next);
