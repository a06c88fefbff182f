/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Where packets of a moved pod go: a map's value, known to the programs and to the library. */
#pragma once

#include <linux/types.h>

enum pf_target_kind {
	PF_TARGET_NONE = 0,
	PF_TARGET_LINK = 1,   /* next_hop is a neighbour on the device */
	PF_TARGET_TUNNEL = 2, /* IP-in-IP to next_hop, by the device's routes */
};

/* Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d. */
struct pf_target {
	__u32 kind;
	__u32 ifindex;
	__u32 mtu_bytes;      /* the longest packet, without Ethernet and tunnel headers; 0: any */
	__u32 bounce_ifindex; /* whose kernel side is given what is too long, to answer it; 0: none */
	__u8 next_hop[16];
	__u8 source[16]; /* the tunnel's near end */
	__u8 bounce_mac[6];
	__u8 padding[2];
};
