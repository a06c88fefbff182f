/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Says of a packet what the hold needs to know: IP or not, neighbour discovery or not, and whether
 * it deserves to wake a pod.
 *
 * Reads by bpf_skb_load_bytes, so that it matters not where the headers lie; that is slower than a
 * cursor and runs only while a pod sleeps. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "hold_shared.h"
#include "pf_parse.h"

/* Hop-by-hop options, routing, destination options, fragment: more in a row is no client's. */
#define PF_HOLD_EXTENSION_DEPTH 4

/* <linux/icmp.h> and <linux/icmpv6.h> want a C library. */
#define PF_HOLD_ICMP_ECHO   8
#define PF_HOLD_ICMPV6_ECHO 128

/* RFC 4861: router solicitation to redirect. */
#define PF_HOLD_ND_FIRST 133
#define PF_HOLD_ND_LAST  137

#define PF_HOLD_FRAGMENT_OFFSET 0x1fff

struct pf_hold_packet {
	struct pf_addresses addresses;
	__u32 cause;   /* enum pf_hold_cause; 0: does not wake */
	__u32 payload; /* offset of what follows the IP headers */
	__u32 end;     /* offset of the packet's end */
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;
	__u8 is_ip;
	__u8 is_discovery; /* IPv6 neighbour discovery */
	__u8 is_reset;
	__u8 is_later_fragment;
};

static __always_inline int pf_hold_read_ipv4(struct __sk_buff *skb, __u32 offset,
					     struct pf_hold_packet *out)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl < 5)
		return PF_PARSE_OTHER;
	pf_map_ipv4(&out->addresses.source, ip.saddr);
	pf_map_ipv4(&out->addresses.destination, ip.daddr);
	out->protocol = ip.protocol;
	out->payload = offset + ip.ihl * 4;
	/* Zero where the packet stands for more than 64 KiB of segments (BIG TCP). */
	out->end = ip.tot_len ? offset + bpf_ntohs(ip.tot_len) : skb->len;
	out->is_later_fragment = !!(ip.frag_off & bpf_htons(PF_HOLD_FRAGMENT_OFFSET));
	return 0;
}

/* Moves OUT behind one extension header; 1 if there was none. */
static __always_inline int pf_hold_skip_extension(struct __sk_buff *skb, struct pf_hold_packet *out)
{
	__u8 header[8];

	switch (out->protocol) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
	case IPPROTO_FRAGMENT:
		break;
	default:
		return 1;
	}
	if (bpf_skb_load_bytes(skb, out->payload, header, sizeof(header)) < 0)
		return PF_PARSE_SHORT;
	if (out->protocol == IPPROTO_FRAGMENT) {
		out->is_later_fragment = header[2] || (header[3] & 0xf8);
		out->payload += sizeof(header);
	} else {
		out->payload += (header[1] + 1u) * 8;
	}
	out->protocol = header[0];
	return out->is_later_fragment ? 1 : 0;
}

static __always_inline int pf_hold_read_ipv6(struct __sk_buff *skb, __u32 offset,
					     struct pf_hold_packet *out)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) < 0 || ip.version != 6)
		return PF_PARSE_OTHER;
	__builtin_memcpy(&out->addresses.source, &ip.saddr, sizeof(out->addresses.source));
	__builtin_memcpy(&out->addresses.destination, &ip.daddr,
			 sizeof(out->addresses.destination));
	out->protocol = ip.nexthdr;
	out->payload = offset + sizeof(ip);
	out->end = ip.payload_len ? out->payload + bpf_ntohs(ip.payload_len) : skb->len;
#pragma unroll
	for (int depth = 0; depth < PF_HOLD_EXTENSION_DEPTH; depth++) {
		int code = pf_hold_skip_extension(skb, out);

		if (code)
			break;
	}
	return 0;
}

static __always_inline void pf_hold_read_tcp(struct __sk_buff *skb, struct pf_hold_packet *out)
{
	struct tcphdr tcp;

	if (bpf_skb_load_bytes(skb, out->payload, &tcp, sizeof(tcp)) < 0)
		return;
	out->source_port = bpf_ntohs(tcp.source);
	out->destination_port = bpf_ntohs(tcp.dest);
	out->is_reset = tcp.rst;
	if (tcp.rst)
		return;
	if (tcp.syn)
		out->cause = PF_HOLD_TCP_SYN;
	else if (tcp.fin)
		out->cause = PF_HOLD_TCP_FIN;
	else if (out->end > out->payload + tcp.doff * 4u)
		out->cause = PF_HOLD_TCP_DATA;
}

static __always_inline void pf_hold_read_udp(struct __sk_buff *skb, struct pf_hold_packet *out)
{
	struct udphdr udp;

	out->cause = PF_HOLD_UDP;
	if (bpf_skb_load_bytes(skb, out->payload, &udp, sizeof(udp)) < 0)
		return;
	out->source_port = bpf_ntohs(udp.source);
	out->destination_port = bpf_ntohs(udp.dest);
}

static __always_inline void pf_hold_read_icmp(struct __sk_buff *skb, struct pf_hold_packet *out)
{
	__u8 type;

	if (bpf_skb_load_bytes(skb, out->payload, &type, sizeof(type)) < 0)
		return;
	if (out->protocol == IPPROTO_ICMPV6)
		out->is_discovery = type >= PF_HOLD_ND_FIRST && type <= PF_HOLD_ND_LAST;
	if (type == (out->protocol == IPPROTO_ICMP ? PF_HOLD_ICMP_ECHO : PF_HOLD_ICMPV6_ECHO))
		out->cause = PF_HOLD_ICMP;
}

/* Fills OUT; out->is_ip is 0 for anything but IP. */
static __always_inline void pf_hold_classify(struct __sk_buff *skb, struct pf_hold_packet *out)
{
	__be16 protocol = 0;
	__u32 offset = ETH_HLEN;
	int code;

	__builtin_memset(out, 0, sizeof(*out));
	if (bpf_skb_load_bytes(skb, ETH_HLEN - 2, &protocol, sizeof(protocol)) < 0)
		return;
	if (protocol == bpf_htons(ETH_P_IP))
		code = pf_hold_read_ipv4(skb, offset, out);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		code = pf_hold_read_ipv6(skb, offset, out);
	else
		return;
	if (code < 0)
		return;
	out->is_ip = 1;
	if (out->is_later_fragment) /* the first one has the ports, and wakes */
		return;
	switch (out->protocol) {
	case IPPROTO_TCP:
		pf_hold_read_tcp(skb, out);
		break;
	case IPPROTO_UDP:
		pf_hold_read_udp(skb, out);
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		pf_hold_read_icmp(skb, out);
		break;
	default:
		out->cause = PF_HOLD_OTHER;
	}
}
