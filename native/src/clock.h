/* SPDX-License-Identifier: Apache-2.0 */
/* The clock by which the library measures how long something takes. */
#pragma once

#include <stdint.h>
#include <time.h>

static inline uint64_t pf_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}
