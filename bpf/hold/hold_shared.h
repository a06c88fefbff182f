/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the hold's programs and the library both know; docs/hold.md has the whole picture. */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>

#include "pf_target.h"

/* Says "through the plug" to the far end, and "released" on the way back: "pfhd". */
#define PF_HOLD_MARK 0x70666864u

/* The elements of the map of targets: packets of either family have their own. */
#define PF_HOLD_TARGET_IPV4 0
#define PF_HOLD_TARGET_IPV6 1
#define PF_HOLD_TARGETS     2

/* A pod has two addresses, seldom more. */
#define PF_HOLD_MAX_ADDRESSES 16

/* One event per arming: a page is more than enough, and the least a ring buffer can be. */
#define PF_HOLD_EVENTS_BYTES 4096

/* Packets that need not wake the pod get a quarter (a shift by two) of the bounds, so that a peer's keepalives
 * cannot keep out the packet that does. */
#define PF_HOLD_QUIET_SHIFT 2

/* The plug is taken for empty although the counts differ (the kernel has dropped a packet in it)
 * when nothing has moved for this long since something came out. A CPU that keeps a packet waiting
 * for as long is one that the kernel itself reports as locked up. */
#define PF_HOLD_QUIET_NS 20000000000LL

enum pf_hold_phase {
	PF_HOLD_PASS = 0,       /* packets go their usual way */
	PF_HOLD_HELD = 1,       /* towards the pod into the plug, from the pod to nowhere */
	PF_HOLD_RELEASING = 2,  /* still through the plug, which is open; PASS once it is empty */
	PF_HOLD_FORWARDING = 3, /* as RELEASING, but to the target; FORWARD once it is empty */
	PF_HOLD_FORWARD = 4,    /* to the target at once; from the pod to nowhere, as in HELD */
	PF_HOLD_SPEAKING = 5,   /* towards the pod as HELD; from the pod its usual way */
};

#define PF_HOLD_WAKE_ON_ICMP   (1u << 0) /* an echo request wakes the pod */
#define PF_HOLD_SHARED_DEVICE  (1u << 1) /* others live behind the device too */
#define PF_HOLD_DELIVER_PEER   (1u << 2) /* a veth whose other end is in another namespace */
#define PF_HOLD_CLSACT         (1u << 3) /* attached by filters, not by tcx links */
#define PF_HOLD_CLSACT_IS_OURS (1u << 4) /* the device had no clsact qdisc before */

struct pf_hold_config {
	__u64 max_bytes;
	__u32 max_packets;
	__u32 flags;
	__u32 pod_ifindex;  /* the host's end of the pod's veth */
	__u32 plug_ifindex; /* the plug's end that has the qdisc */
	__u32 far_ifindex;  /* the plug's other end */
	__u8 pod_mac[6];    /* all zero: any */
	__u8 padding[2];
};

/* Since the last arming. Packets are counted as the segments they stand for. */
struct pf_hold_counts {
	__u64 in_packets; /* into the plug */
	__u64 in_bytes;
	__u64 out_packets; /* out of the plug, to the pod */
	__u64 out_bytes;
	__u64 over_packets; /* not held: the bound was reached */
	__u64 over_bytes;
	__u64 quiet_over_packets; /* not held: would not have woken, and their share was used up */
	__u64 shielded_packets;   /* of the pod, while it slept */
	__u64 shielded_resets;    /* TCP RST among them */
	__u64 shielded_icmp;      /* ICMP among them: port unreachable and the like */
	__u64 strays;             /* frames on the plug that nobody put there */
	__u64 looped;             /* came out of a closed plug and were put back */
	__u64 first_in_ns;        /* CLOCK_MONOTONIC, as all times here; 0: none */
	__u64 last_in_ns;
	__u64 first_out_ns;
	__u64 last_out_ns;
	__u64 forwarded_packets; /* sent to the target */
	__u64 bounced_packets; /* too long for the tunnel: given to this node's kernel to refuse */
	__u64 unsent_packets;  /* dropped: no target for them, or the kernel would not */
	struct bpf_spin_lock lock; /* over what goes in and out, and over the end of a release */
	__u32 out_cpu;             /* where something last came out of the plug */
};

enum pf_hold_cause {
	PF_HOLD_TCP_SYN = 1,
	PF_HOLD_TCP_DATA = 2,
	PF_HOLD_TCP_FIN = 3,
	PF_HOLD_UDP = 4,
	PF_HOLD_ICMP = 5,
	PF_HOLD_OTHER = 6, /* any other protocol over IP */
};

/* The packet that wakes the pod. */
struct pf_hold_event {
	__u64 time_ns;
	__u32 cause;
	__u16 source_port; /* 0 where the protocol has none */
	__u16 destination_port;
	__u8 source[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u8 destination[16];
	__u8 protocol;
	__u8 padding[7];
};
