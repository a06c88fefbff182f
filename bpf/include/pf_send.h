/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Sends a packet to a target from a tc program: to a neighbour, or in an IP-in-IP tunnel.
 *
 * Everything is left to the kernel that it does right: the MAC addresses (both are written) and the
 * waiting for a neighbour, checksums that are not yet made, the cutting of long segments. A longer
 * header makes the segments of a TCP super-packet shorter by as much, so these fit always. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "pf_target.h"

/* From <linux/socket.h> and <linux/pkt_cls.h>. */
#define PF_AF_INET  2
#define PF_AF_INET6 10
#define PF_TC_SHOT  2

#define PF_TUNNEL_TTL 64

#define PF_SEND_FAILED   (-1)
#define PF_SEND_TOO_LONG (-2)

static __always_inline int pf_is_mapped(const __u8 address[16])
{
	const __u32 *words = (const __u32 *)address;

	return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
}

/* The ones' complement sum of a header without options. */
static __always_inline __u16 pf_ipv4_checksum(const struct iphdr *ip)
{
	const __u16 *words = (const __u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < (int)(sizeof(*ip) / 2); i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

/* Makes room behind the Ethernet header; datagrams of UDP segmentation offload keep their size. */
static __always_inline long pf_make_room(struct __sk_buff *skb, __s32 bytes, __u64 flags)
{
	long code = bpf_skb_adjust_room(skb, bytes, BPF_ADJ_ROOM_MAC, flags);

	if (code < 0 && skb->gso_segs)
		code = bpf_skb_adjust_room(skb, bytes, BPF_ADJ_ROOM_MAC,
					   flags | BPF_F_ADJ_ROOM_FIXED_GSO);
	return code;
}

static __always_inline int pf_tunnel_ipv4(struct __sk_buff *skb, const struct pf_target *target,
					  __u8 inner_protocol)
{
	__be16 protocol = bpf_htons(ETH_P_IP);
	struct iphdr outer = {
		.version = 4,
		.ihl = sizeof(outer) / 4,
		.frag_off = bpf_htons(0x4000), /* don't fragment: nobody puts it together */
		.ttl = PF_TUNNEL_TTL,
		.protocol = inner_protocol,
	};
	__u32 bytes = skb->len - ETH_HLEN + sizeof(outer);

	/* Zero where it stands for more than 64 KiB of segments (BIG TCP). */
	outer.tot_len = bytes > 0xffff ? 0 : bpf_htons((__u16)bytes);
	__builtin_memcpy(&outer.saddr, target->source + 12, sizeof(outer.saddr));
	__builtin_memcpy(&outer.daddr, target->next_hop + 12, sizeof(outer.daddr));
	outer.check = pf_ipv4_checksum(&outer);
	if (pf_make_room(skb, sizeof(outer), BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) < 0 ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0) < 0 ||
	    bpf_skb_store_bytes(skb, ETH_HLEN - 2, &protocol, sizeof(protocol), 0) < 0)
		return PF_SEND_FAILED;
	return (int)bpf_redirect_neigh(target->ifindex, NULL, 0, 0);
}

static __always_inline int pf_tunnel_ipv6(struct __sk_buff *skb, const struct pf_target *target,
					  __u8 inner_protocol)
{
	__be16 protocol = bpf_htons(ETH_P_IPV6);
	struct ipv6hdr outer = {
		.version = 6,
		.nexthdr = inner_protocol,
		.hop_limit = PF_TUNNEL_TTL,
	};
	__u32 bytes = skb->len - ETH_HLEN;

	outer.payload_len = bytes > 0xffff ? 0 : bpf_htons((__u16)bytes);
	__builtin_memcpy(&outer.saddr, target->source, sizeof(outer.saddr));
	__builtin_memcpy(&outer.daddr, target->next_hop, sizeof(outer.daddr));
	if (pf_make_room(skb, sizeof(outer), BPF_F_ADJ_ROOM_ENCAP_L3_IPV6) < 0 ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0) < 0 ||
	    bpf_skb_store_bytes(skb, ETH_HLEN - 2, &protocol, sizeof(protocol), 0) < 0)
		return PF_SEND_FAILED;
	return (int)bpf_redirect_neigh(target->ifindex, NULL, 0, 0);
}

static __always_inline int pf_to_neighbour(struct __sk_buff *skb, const struct pf_target *target)
{
	struct bpf_redir_neigh next_hop = {0};

	if (pf_is_mapped(target->next_hop)) {
		if (skb->protocol != bpf_htons(ETH_P_IP)) /* the kernel has no such way */
			return PF_SEND_FAILED;
		next_hop.nh_family = PF_AF_INET;
		__builtin_memcpy(&next_hop.ipv4_nh, target->next_hop + 12, 4);
	} else {
		next_hop.nh_family = PF_AF_INET6;
		__builtin_memcpy(next_hop.ipv6_nh, target->next_hop, 16);
	}
	return (int)bpf_redirect_neigh(target->ifindex, &next_hop, sizeof(next_hop), 0);
}

/* Hands a packet that is too long to the kernel of this node, which tells its sender. */
static __always_inline int pf_bounce(struct __sk_buff *skb, const struct pf_target *target)
{
	if (!target->bounce_ifindex ||
	    bpf_skb_store_bytes(skb, 0, target->bounce_mac, sizeof(target->bounce_mac), 0) < 0)
		return PF_TC_SHOT;
	return (int)bpf_redirect(target->bounce_ifindex, BPF_F_INGRESS);
}

/* tc's verdict, PF_SEND_FAILED or PF_SEND_TOO_LONG; SKB is an IP packet without VLAN tag. A failed
 * one may have been changed: it can only be dropped. */
static __always_inline int pf_send(struct __sk_buff *skb, const struct pf_target *target)
{
	int is_ipv4 = skb->protocol == bpf_htons(ETH_P_IP);
	__u8 inner_protocol = is_ipv4 ? IPPROTO_IPIP : IPPROTO_IPV6;

	if (target->kind == PF_TARGET_LINK)
		return pf_to_neighbour(skb, target);
	if (target->kind != PF_TARGET_TUNNEL)
		return PF_SEND_FAILED;
	if (target->mtu_bytes && !skb->gso_size && skb->len - ETH_HLEN > target->mtu_bytes)
		return PF_SEND_TOO_LONG;
	if (pf_is_mapped(target->next_hop))
		return pf_tunnel_ipv4(skb, target, inner_protocol);
	return pf_tunnel_ipv6(skb, target, inner_protocol);
}
