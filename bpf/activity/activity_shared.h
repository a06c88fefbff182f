/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the activity program and its reader both know. */
#pragma once

#include <linux/types.h>

/* A node has at most a few hundred pods, each with an address of either family; eight times that
 * leaves room for addresses that linger after a pod has moved away. */
#define PF_ACTIVITY_MAX_ADDRESSES 4096

struct pf_activity_count {
	__u64 last_ns; /* CLOCK_MONOTONIC of the last packet; 0: none yet */
	__u64 packets;
	__u64 bytes; /* of whole frames */
};

struct pf_activity_value {
	struct pf_activity_count received; /* the address is the destination */
	struct pf_activity_count sent;     /* the address is the source */
};
