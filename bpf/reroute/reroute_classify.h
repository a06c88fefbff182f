/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Says of a packet what rerouting needs to know: its flow, its destination, its time to live.
 *
 * For tc and XDP alike: only the loading of bytes differs, and the compiler leaves the other out. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "pf_parse.h"
#include "reroute_shared.h"

#define PF_REROUTE_EXTENSION_DEPTH 4

#define PF_IPV4_OFFSET_MASK 0x1fff

/* <linux/icmp.h> and <linux/icmpv6.h> want a C library. */
#define PF_ICMP_UNREACHABLE   3
#define PF_ICMP_QUENCH        4
#define PF_ICMP_TIME_EXCEEDED 11
#define PF_ICMP_PARAMETER     12
#define PF_ICMPV6_LAST_ERROR  127
#define PF_ND_FIRST           133
#define PF_ND_LAST            137

struct pf_reroute_packet {
	struct pf_reroute_flow flow;
	struct pf_address source;
	struct pf_address destination; /* of the packet itself, also of an ICMP error */
	__u32 payload;                 /* offset of what follows the IP headers */
	__u8 protocol;                 /* of the payload */
	__u8 is_ipv4;
	__u8 is_later_fragment;
	__u8 has_options; /* or extension headers */
	__u8 time_to_live;
};

static __always_inline long pf_load(void *ctx, int is_xdp, __u32 offset, void *out, __u32 bytes)
{
	return is_xdp ? bpf_xdp_load_bytes(ctx, offset, out, bytes)
		      : bpf_skb_load_bytes(ctx, offset, out, bytes);
}

static __always_inline int pf_has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

static __always_inline int pf_classify_ipv4(void *ctx, int is_xdp, struct pf_reroute_packet *out)
{
	struct iphdr ip;

	if (pf_load(ctx, is_xdp, ETH_HLEN, &ip, sizeof(ip)) < 0)
		return PF_PARSE_SHORT;
	if (ip.version != 4 || ip.ihl < 5)
		return PF_PARSE_OTHER;
	pf_map_ipv4(&out->source, ip.saddr);
	pf_map_ipv4(&out->destination, ip.daddr);
	out->is_ipv4 = 1;
	out->protocol = ip.protocol;
	out->time_to_live = ip.ttl;
	out->has_options = ip.ihl > 5;
	out->payload = ETH_HLEN + ip.ihl * 4u;
	out->is_later_fragment = !!(ip.frag_off & bpf_htons(PF_IPV4_OFFSET_MASK));
	return 0;
}

static __always_inline int pf_classify_ipv6(void *ctx, int is_xdp, struct pf_reroute_packet *out)
{
	struct ipv6hdr ip;

	if (pf_load(ctx, is_xdp, ETH_HLEN, &ip, sizeof(ip)) < 0)
		return PF_PARSE_SHORT;
	if (ip.version != 6)
		return PF_PARSE_OTHER;
	__builtin_memcpy(&out->source, &ip.saddr, sizeof(out->source));
	__builtin_memcpy(&out->destination, &ip.daddr, sizeof(out->destination));
	out->protocol = ip.nexthdr;
	out->time_to_live = ip.hop_limit;
	out->payload = ETH_HLEN + sizeof(ip);
#pragma unroll
	for (int depth = 0; depth < PF_REROUTE_EXTENSION_DEPTH; depth++) {
		__u8 header[8];

		if (out->protocol != IPPROTO_HOPOPTS && out->protocol != IPPROTO_ROUTING &&
		    out->protocol != IPPROTO_DSTOPTS && out->protocol != IPPROTO_FRAGMENT)
			break;
		if (pf_load(ctx, is_xdp, out->payload, header, sizeof(header)) < 0)
			return PF_PARSE_SHORT;
		out->has_options = 1;
		if (out->protocol == IPPROTO_FRAGMENT) {
			out->is_later_fragment = header[2] || (header[3] & 0xf8);
			out->payload += sizeof(header);
		} else {
			out->payload += (header[1] + 1u) * 8;
		}
		out->protocol = header[0];
		if (out->is_later_fragment)
			break;
	}
	return 0;
}

/* The flow of the packets that an ICMP error quotes, as those that it concerns come in: turned
 * round. Without the quoted ports (too short) it is no flow of ours. */
static __always_inline void pf_classify_quoted(void *ctx, int is_xdp, struct pf_reroute_packet *out)
{
	__u32 at = out->payload + 8;
	__be16 ports[2];

	if (out->is_ipv4) {
		struct iphdr ip;

		if (pf_load(ctx, is_xdp, at, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl < 5)
			return;
		pf_map_ipv4((struct pf_address *)out->flow.source, ip.daddr);
		pf_map_ipv4((struct pf_address *)out->flow.destination, ip.saddr);
		out->flow.protocol = ip.protocol;
		at += ip.ihl * 4u;
	} else {
		struct ipv6hdr ip;

		if (pf_load(ctx, is_xdp, at, &ip, sizeof(ip)) < 0 || ip.version != 6)
			return;
		__builtin_memcpy(out->flow.source, &ip.daddr, 16);
		__builtin_memcpy(out->flow.destination, &ip.saddr, 16);
		out->flow.protocol = ip.nexthdr;
		at += sizeof(ip);
	}
	if (!pf_has_ports(out->flow.protocol) || pf_load(ctx, is_xdp, at, ports, sizeof(ports)) < 0)
		return;
	out->flow.source_port = ports[1];
	out->flow.destination_port = ports[0];
}

static __always_inline int pf_is_icmp_error(const struct pf_reroute_packet *packet, __u8 type)
{
	if (!packet->is_ipv4)
		return type && type <= PF_ICMPV6_LAST_ERROR;
	return type == PF_ICMP_UNREACHABLE || type == PF_ICMP_QUENCH ||
	       type == PF_ICMP_TIME_EXCEEDED || type == PF_ICMP_PARAMETER;
}

/* 0, PF_PARSE_SHORT or PF_PARSE_OTHER (which neighbour discovery and tagged frames are too). */
static __always_inline int pf_reroute_classify(void *ctx, int is_xdp, struct pf_reroute_packet *out)
{
	__be16 protocol, ports[2];
	int code;
	__u8 type;

	__builtin_memset(out, 0, sizeof(*out));
	if (pf_load(ctx, is_xdp, ETH_HLEN - 2, &protocol, sizeof(protocol)) < 0)
		return PF_PARSE_SHORT;
	if (protocol == bpf_htons(ETH_P_IP))
		code = pf_classify_ipv4(ctx, is_xdp, out);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		code = pf_classify_ipv6(ctx, is_xdp, out);
	else
		return PF_PARSE_OTHER;
	if (code < 0)
		return code;
	__builtin_memcpy(out->flow.source, &out->source, 16);
	__builtin_memcpy(out->flow.destination, &out->destination, 16);
	out->flow.protocol = out->protocol;
	if (out->is_later_fragment)
		return 0;
	if (pf_has_ports(out->protocol)) {
		if (pf_load(ctx, is_xdp, out->payload, ports, sizeof(ports)) < 0)
			return PF_PARSE_SHORT;
		out->flow.source_port = ports[0];
		out->flow.destination_port = ports[1];
		return 0;
	}
	if (out->protocol != (out->is_ipv4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return 0;
	if (pf_load(ctx, is_xdp, out->payload, &type, sizeof(type)) < 0)
		return PF_PARSE_SHORT;
	if (!out->is_ipv4 && type >= PF_ND_FIRST && type <= PF_ND_LAST)
		return PF_PARSE_OTHER;
	if (pf_is_icmp_error(out, type))
		pf_classify_quoted(ctx, is_xdp, out);
	return 0;
}
