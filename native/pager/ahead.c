// SPDX-License-Identifier: Apache-2.0
/* Owns the thread that reads the store; knows nothing of processes. */
#include "ahead.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

static void *run(void *argument)
{
	struct ahead *ahead = argument;

	pthread_mutex_lock(&ahead->lock);
	while (!ahead->ended) {
		struct window wanted = ahead->wanted;
		size_t bytes = (size_t)(wanted.end - wanted.start);

		if (!wanted.start) {
			pthread_cond_wait(&ahead->changed, &ahead->lock);
			continue;
		}
		pthread_mutex_unlock(&ahead->lock);
		/* A hint: what cannot be read shows when it is copied from. */
		madvise((void *)(uintptr_t)wanted.start, bytes, MADV_POPULATE_READ);
		pthread_mutex_lock(&ahead->lock);
		ahead->done = wanted;
		ahead->wanted = (struct window){0};
		pthread_cond_broadcast(&ahead->changed);
	}
	pthread_mutex_unlock(&ahead->lock);
	return NULL;
}

int ahead_start(struct ahead *ahead, struct pf_error *err)
{
	int code;

	*ahead = (struct ahead){0};
	pthread_mutex_init(&ahead->lock, NULL);
	pthread_cond_init(&ahead->changed, NULL);
	code = pthread_create(&ahead->thread, NULL, run, ahead);
	return code ? pf_fail(err, -code, "cannot read ahead: %s", strerror(code)) : 0;
}

void ahead_stop(struct ahead *ahead)
{
	pthread_mutex_lock(&ahead->lock);
	ahead->ended = true;
	pthread_cond_broadcast(&ahead->changed);
	pthread_mutex_unlock(&ahead->lock);
	pthread_join(ahead->thread, NULL);
	pthread_cond_destroy(&ahead->changed);
	pthread_mutex_destroy(&ahead->lock);
}

struct window ahead_get(struct ahead *ahead, struct window now, struct window next)
{
	struct window got;

	pthread_mutex_lock(&ahead->lock);
	while (now.start < ahead->done.start || now.start >= ahead->done.end) {
		if (!ahead->wanted.start) {
			ahead->wanted = now;
			pthread_cond_broadcast(&ahead->changed);
		}
		pthread_cond_wait(&ahead->changed, &ahead->lock);
	}
	got = ahead->done;
	ahead->wanted = next;
	pthread_cond_broadcast(&ahead->changed);
	pthread_mutex_unlock(&ahead->lock);
	return got;
}
