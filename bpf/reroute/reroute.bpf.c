// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Sends packets for pods that have moved to where they are now, and opens the tunnels they come in.
 *
 * reroute_ingress and reroute_xdp are for a node's uplink: what arrives is sent on before this
 * node's connection tracking, which sees one direction only, can take offence. reroute_egress is for
 * the uplink's egress: what this node sends into a tunnel. reroute_from_pod is for the ingress of a
 * moved pod's veth: flows that have to leave by the node they came from. What no entry is for
 * passes. */
#include "pf_send.h"
#include "reroute_maps.h"

/* tc's verdict, from <linux/pkt_cls.h>: it leaves the decision to the next program or filter. */
#define PF_TC_NEXT (-1)

/* From Linux 6.3's <linux/bpf.h>; used only where the families of a tunnel's headers differ. */
#define PF_DECAP_L3_IPV4 (1ULL << 7)
#define PF_DECAP_L3_IPV6 (1ULL << 8)

#define IPV4_TTL_AT   (ETH_HLEN + 8)
#define IPV4_CHECK_AT (ETH_HLEN + 10)
#define IPV6_TTL_AT   (ETH_HLEN + 7)

static __always_inline __u64 segments(const struct __sk_buff *skb)
{
	return skb->gso_segs ? skb->gso_segs : 1;
}

/* As every router does, so that no mistake makes a packet go round for ever. */
static __always_inline int age(struct __sk_buff *skb, const struct pf_reroute_packet *packet)
{
	__u8 left = packet->time_to_live - 1;
	__be16 before, after;

	if (!packet->is_ipv4)
		return (int)bpf_skb_store_bytes(skb, IPV6_TTL_AT, &left, sizeof(left), 0);
	before = bpf_htons((__u16)(packet->time_to_live << 8 | packet->protocol));
	after = bpf_htons((__u16)(left << 8 | packet->protocol));
	if (bpf_l3_csum_replace(skb, IPV4_CHECK_AT, before, after, sizeof(after)) < 0)
		return -1;
	return (int)bpf_skb_store_bytes(skb, IPV4_TTL_AT, &left, sizeof(left), 0);
}

static __always_inline int send(struct __sk_buff *skb, struct pf_reroute_entry *entry,
				struct pf_reroute_counts *count, __u64 packets)
{
	__u64 bytes = skb->len;
	int verdict = pf_send(skb, &entry->target);

	if (verdict == PF_SEND_TOO_LONG) {
		count->too_long += packets;
		return PF_TC_NEXT;
	}
	if (verdict < 0 || verdict == PF_TC_SHOT) {
		count->failed += packets;
		return PF_TC_SHOT;
	}
	note(entry, count, packets, bytes);
	skb->mark = PF_REROUTE_MARK;
	return verdict;
}

static __always_inline int is_too_long(const struct __sk_buff *skb, const struct pf_target *target)
{
	return target->kind == PF_TARGET_TUNNEL && target->mtu_bytes && !skb->gso_size &&
	       skb->len - ETH_HLEN > target->mtu_bytes;
}

/* A packet that this node forwards; one that has lived too long is left to the kernel to answer. */
static __always_inline int forward(struct __sk_buff *skb, const struct pf_reroute_packet *packet,
				   struct pf_reroute_entry *entry, struct pf_reroute_counts *count)
{
	__u64 packets = segments(skb);

	if (packet->time_to_live <= 1)
		return PF_TC_NEXT;
	if (is_too_long(skb, &entry->target)) { /* before it ages */
		count->too_long += packets;
		return PF_TC_NEXT;
	}
	if (age(skb, packet) < 0) {
		count->failed += packets;
		return PF_TC_SHOT;
	}
	return send(skb, entry, count, packets);
}

/* Takes the outer header off; 0 if it is no tunnel packet for us, 1 if it was opened. */
static __always_inline int open_tunnel(struct __sk_buff *skb, struct pf_reroute_packet *packet,
				       struct pf_reroute_counts *count)
{
	__s32 header_bytes = packet->is_ipv4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	int is_inner_ipv4 = packet->protocol == IPPROTO_IPIP;
	__be16 protocol = is_inner_ipv4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	__u8 was_ipv4 = packet->is_ipv4;
	__u64 flags = 0;

	if (packet->protocol != IPPROTO_IPIP && packet->protocol != IPPROTO_IPV6)
		return 0;
	if (packet->is_later_fragment || packet->has_options ||
	    node_kind(&packet->source) != PF_REROUTE_PEER ||
	    node_kind(&packet->destination) != PF_REROUTE_SELF) {
		count->strange++;
		return 0;
	}
	if (is_inner_ipv4 != was_ipv4)
		flags = is_inner_ipv4 ? PF_DECAP_L3_IPV4 : PF_DECAP_L3_IPV6;
	if (skb->gso_size)
		flags |= BPF_F_ADJ_ROOM_FIXED_GSO; /* the segments are as long as they were made */
	if (bpf_skb_adjust_room(skb, -header_bytes, BPF_ADJ_ROOM_MAC, flags) < 0) {
		count->failed++;
		return -1;
	}
	if (bpf_skb_store_bytes(skb, ETH_HLEN - 2, &protocol, sizeof(protocol), 0) < 0 ||
	    pf_reroute_classify(skb, 0, packet) < 0 || !concerns_us(packet)) {
		count->strange++;
		return -1;
	}
	count->opened++;
	return 1;
}

SEC("tc")
int reroute_ingress(struct __sk_buff *skb)
{
	struct pf_reroute_counts *count = counts();
	struct pf_reroute_packet packet;
	struct pf_reroute_entry *entry;

	if (!count || skb->vlan_present || pf_reroute_classify(skb, 0, &packet) < 0)
		return PF_TC_NEXT;
	if (open_tunnel(skb, &packet, count) < 0)
		return PF_TC_SHOT;
	entry = find(&packet, count);
	if (!entry)
		return PF_TC_NEXT;
	return forward(skb, &packet, entry, count);
}

SEC("tc")
int reroute_egress(struct __sk_buff *skb)
{
	struct pf_reroute_counts *count = counts();
	struct pf_reroute_packet packet;
	struct pf_reroute_entry *entry;
	int is_flow;

	if (skb->mark == PF_REROUTE_MARK) {
		skb->mark = 0;
		return PF_TC_NEXT;
	}
	if (!count || pf_reroute_classify(skb, 0, &packet) < 0)
		return PF_TC_NEXT;
	is_flow = find_flow(&packet, count) != NULL;
	entry = find(&packet, count);
	/* On a shared link the kernel's own route has done it; flows have no route. */
	if (!entry || (entry->target.kind == PF_TARGET_LINK && !is_flow))
		return PF_TC_NEXT;
	return send(skb, entry, count, segments(skb));
}

SEC("tc")
int reroute_from_pod(struct __sk_buff *skb)
{
	struct pf_reroute_counts *count = counts();
	struct pf_reroute_packet packet;
	struct pf_reroute_entry *entry;

	if (!count || pf_reroute_classify(skb, 0, &packet) < 0)
		return PF_TC_NEXT;
	entry = find_flow(&packet, count);
	if (!entry)
		return PF_TC_NEXT;
	return forward(skb, &packet, entry, count);
}

/* The MACs towards ADDRESS, where it is reached through the device the packet came by and known. */
static __always_inline int look_up(struct xdp_md *ctx, const __u8 address[16],
				   struct bpf_fib_lookup *out)
{
	__builtin_memset(out, 0, sizeof(*out));
	out->ifindex = ctx->ingress_ifindex;
	if (pf_is_mapped(address)) {
		out->family = PF_AF_INET;
		__builtin_memcpy(&out->ipv4_dst, address + 12, 4);
	} else {
		out->family = PF_AF_INET6;
		__builtin_memcpy(out->ipv6_dst, address, 16);
	}
	if (bpf_fib_lookup(ctx, out, sizeof(*out), BPF_FIB_LOOKUP_OUTPUT) != 0)
		return 0;
	return out->ifindex == ctx->ingress_ifindex;
}

/* Only what is plain: IPv4 or IPv6 without options to a known neighbour; all else passes and meets
 * reroute_ingress. */
SEC("xdp")
int reroute_xdp(struct xdp_md *ctx)
{
	struct pf_reroute_counts *count = counts();
	struct pf_reroute_packet packet;
	struct pf_reroute_entry *entry;
	struct bpf_fib_lookup way;
	struct ethhdr *ethernet;
	void *data, *end;

	if (!count || pf_reroute_classify(ctx, 1, &packet) < 0 || packet.has_options)
		return XDP_PASS;
	entry = find(&packet, count);
	if (!entry || entry->target.kind != PF_TARGET_LINK || packet.time_to_live <= 1 ||
	    entry->target.ifindex != ctx->ingress_ifindex ||
	    !look_up(ctx, entry->target.next_hop, &way))
		return XDP_PASS;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ethernet = data;
	if (packet.is_ipv4) {
		struct iphdr *ip = (void *)(ethernet + 1);
		__u32 sum;

		if ((void *)(ip + 1) > end)
			return XDP_PASS;
		/* RFC 1141: one less in the high byte is one more in the sum. */
		sum = ip->check + bpf_htons(0x0100);
		ip->check = (__sum16)(sum + (sum >= 0xffff));
		ip->ttl--;
	} else {
		struct ipv6hdr *ip = (void *)(ethernet + 1);

		if ((void *)(ip + 1) > end)
			return XDP_PASS;
		ip->hop_limit--;
	}
	__builtin_memcpy(ethernet->h_dest, way.dmac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, way.smac, ETH_ALEN);
	note(entry, count, 1, (__u64)(end - data));
	return XDP_TX;
}

/* The kernel's list of GPL-compatible licences knows no "GPL-2.0 OR Apache-2.0". */
char license_name[] SEC("license") = "GPL";
