/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the rerouting programs and the library both know; docs/reroute.md has the whole picture. */
#pragma once

#include <linux/types.h>

#include "pf_target.h"

/* Says to the uplink's egress that a packet has been seen to: "pfrr". */
#define PF_REROUTE_MARK 0x70667272u

#define PF_REROUTE_MAX_ADDRESSES 4096
#define PF_REROUTE_MAX_FLOWS     65536
#define PF_REROUTE_MAX_NODES     4096

/* For packets from one of this node's own addresses only: T's own packets that come back from S,
 * which a kernel takes for forged. */
#define PF_REROUTE_OWN_ONLY (1u << 0)

/* A packet's way as its sender sees it; of an ICMP error, that of the packets it is about, turned
 * round. Ports are in network byte order, 0 where the protocol has none. Addresses are 16 bytes. */
struct pf_reroute_flow {
	__u8 source[16];
	__u8 destination[16];
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 padding[3];
};

struct pf_reroute_entry {
	struct pf_target target;
	__u64 epoch;
	__u64 expires_ns; /* CLOCK_MONOTONIC; 0: never. Expired means as if it were not there */
	__u32 flags;
	__u32 padding;
	__u64 packets;
	__u64 bytes;
};

enum pf_reroute_node {
	PF_REROUTE_PEER = 1, /* its tunnels are opened here */
	PF_REROUTE_SELF = 2, /* an address of this node */
};

struct pf_reroute_counts {
	__u64 sent;     /* to where the pod is now */
	__u64 opened;   /* tunnel packets */
	__u64 strange;  /* tunnel packets of nobody we know, or for nobody: left to the kernel */
	__u64 expired;  /* met an entry whose time was over */
	__u64 too_long; /* for the tunnel: left to the kernel, which tells the sender */
	__u64 failed;   /* dropped: the kernel would not */
};
