/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The rerouting programs' maps and the look-ups in them. */
#pragma once

#include "reroute_classify.h"

/* Written by: the library. Read by: all programs; they count in it. A key is a moved pod's address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PF_REROUTE_MAX_ADDRESSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pf_address);
	__type(value, struct pf_reroute_entry);
} pf_addresses SEC(".maps");

/* Written by: the library. Read by: all programs, before the addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PF_REROUTE_MAX_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pf_reroute_flow);
	__type(value, struct pf_reroute_entry);
} pf_flows SEC(".maps");

/* Written by: the library; the value is enum pf_reroute_node. Read by: whoever opens tunnels. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PF_REROUTE_MAX_NODES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pf_address);
	__type(value, __u32);
} pf_nodes SEC(".maps");

/* Written by: the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pf_reroute_counts);
} pf_counts SEC(".maps");

static __always_inline struct pf_reroute_counts *counts(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&pf_counts, &zero);
}

static __always_inline struct pf_reroute_entry *live(struct pf_reroute_entry *entry,
						     struct pf_reroute_counts *count)
{
	if (!entry || !entry->expires_ns || bpf_ktime_get_ns() < entry->expires_ns)
		return entry;
	count->expired++;
	return NULL;
}

static __always_inline __u32 node_kind(const void *address)
{
	__u32 *kind = bpf_map_lookup_elem(&pf_nodes, address);

	return kind ? *kind : 0;
}

static __always_inline struct pf_reroute_entry *find_flow(const struct pf_reroute_packet *packet,
							  struct pf_reroute_counts *count)
{
	return live(bpf_map_lookup_elem(&pf_flows, &packet->flow), count);
}

static __always_inline struct pf_reroute_entry *find(const struct pf_reroute_packet *packet,
						     struct pf_reroute_counts *count)
{
	struct pf_reroute_entry *entry = find_flow(packet, count);

	if (!entry)
		entry = live(bpf_map_lookup_elem(&pf_addresses, &packet->destination), count);
	if (entry && (entry->flags & PF_REROUTE_OWN_ONLY) &&
	    node_kind(&packet->source) != PF_REROUTE_SELF)
		return NULL;
	return entry;
}

/* Whether a tunnel packet may be opened: what is in it must concern a pod that moves. */
static __always_inline int concerns_us(const struct pf_reroute_packet *inner)
{
	return bpf_map_lookup_elem(&pf_addresses, &inner->destination) ||
	       bpf_map_lookup_elem(&pf_addresses, &inner->source) ||
	       bpf_map_lookup_elem(&pf_flows, &inner->flow);
}

static __always_inline void note(struct pf_reroute_entry *entry, struct pf_reroute_counts *count,
				 __u64 packets, __u64 bytes)
{
	__sync_fetch_and_add(&entry->packets, packets);
	__sync_fetch_and_add(&entry->bytes, bytes);
	count->sent += packets;
}
