/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Packet parsing for every program: Ethernet, up to two VLAN tags, and the addresses of IPv4 and
 * IPv6.
 *
 * Each step checks its bounds and moves the cursor; a step that meets the end of the data returns
 * PF_PARSE_SHORT, and a packet that is not what was asked for PF_PARSE_OTHER. Protocol numbers are
 * in network byte order, as they stand in the packet. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define PF_PARSE_SHORT (-1)
#define PF_PARSE_OTHER (-2)

/* 802.1ad outside 802.1Q is two; more is no packet of a pod. */
#define PF_VLAN_DEPTH 2

/* Longest sequence of headers that pf_parse_addresses reads. */
#define PF_PARSE_MAX_BYTES (ETH_HLEN + PF_VLAN_DEPTH * 4 + sizeof(struct ipv6hdr))

struct pf_cursor {
	void *at;
	void *end;
};

struct pf_vlan_header {
	__be16 tci;
	__be16 protocol;
};

/* An IPv6 address, or an IPv4 address in its mapped form ::ffff:a.b.c.d, so that one map serves
 * both families. */
struct pf_address {
	__u8 bytes[16];
};

struct pf_addresses {
	struct pf_address source;
	struct pf_address destination;
};

static __always_inline void pf_map_ipv4(struct pf_address *out, __be32 ipv4)
{
	__u32 *words = (__u32 *)out->bytes;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = ipv4;
}

/* Returns the EtherType (network order, >= 0) behind the Ethernet header and any VLAN tags. */
static __always_inline int pf_parse_ethernet(struct pf_cursor *cursor)
{
	struct ethhdr *ethernet = cursor->at;
	__be16 protocol;

	if ((void *)(ethernet + 1) > cursor->end)
		return PF_PARSE_SHORT;
	cursor->at = ethernet + 1;
	protocol = ethernet->h_proto;
#pragma unroll
	for (int depth = 0; depth < PF_VLAN_DEPTH; depth++) {
		struct pf_vlan_header *vlan = cursor->at;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(vlan + 1) > cursor->end)
			return PF_PARSE_SHORT;
		cursor->at = vlan + 1;
		protocol = vlan->protocol;
	}
	return protocol;
}

static __always_inline int pf_parse_ipv4(struct pf_cursor *cursor, struct pf_addresses *out)
{
	struct iphdr *ip = cursor->at;

	if ((void *)(ip + 1) > cursor->end)
		return PF_PARSE_SHORT;
	if (ip->version != 4 || ip->ihl < 5)
		return PF_PARSE_OTHER;
	pf_map_ipv4(&out->source, ip->saddr);
	pf_map_ipv4(&out->destination, ip->daddr);
	return 0;
}

static __always_inline int pf_parse_ipv6(struct pf_cursor *cursor, struct pf_addresses *out)
{
	struct ipv6hdr *ip = cursor->at;

	if ((void *)(ip + 1) > cursor->end)
		return PF_PARSE_SHORT;
	if (ip->version != 6)
		return PF_PARSE_OTHER;
	__builtin_memcpy(&out->source, &ip->saddr, sizeof(out->source));
	__builtin_memcpy(&out->destination, &ip->daddr, sizeof(out->destination));
	return 0;
}

/* The addresses of an Ethernet frame; 0, PF_PARSE_SHORT or PF_PARSE_OTHER. */
static __always_inline int pf_parse_addresses(struct pf_cursor *cursor, struct pf_addresses *out)
{
	int protocol = pf_parse_ethernet(cursor);

	if (protocol < 0)
		return protocol;
	if (protocol == bpf_htons(ETH_P_IP))
		return pf_parse_ipv4(cursor, out);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return pf_parse_ipv6(cursor, out);
	return PF_PARSE_OTHER;
}
