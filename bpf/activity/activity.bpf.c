// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Notes when a watched address last sent or received a packet, and how much; passes everything.
 *
 * activity_xdp is for a node's uplink, activity_tc for the host end of a pod's veth (tcx or clsact,
 * either direction). A packet that crosses both is counted by both. */
#include "pf_parse.h"

#include "activity_shared.h"

/* tc's verdicts, from <linux/pkt_cls.h>: -1 leaves the decision to the next program or filter. */
#define PF_TC_NEXT (-1)

/* Written by: userland adds and removes the keys (a key present is an address watched), the
 * programs count. Read by: `podferry pods` and the hibernation timer. Size: see the shared header;
 * per CPU, so that a busy pod costs no shared cache line: about 200 KiB a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, PF_ACTIVITY_MAX_ADDRESSES);
	__type(key, struct pf_address);
	__type(value, struct pf_activity_value);
} pf_activity SEC(".maps");

static __always_inline void count(struct pf_activity_count *counter, __u64 bytes)
{
	counter->last_ns = bpf_ktime_get_ns();
	counter->packets++;
	counter->bytes += bytes;
}

static __always_inline void note(struct pf_addresses *addresses, __u64 bytes)
{
	struct pf_activity_value *to = bpf_map_lookup_elem(&pf_activity, &addresses->destination);
	struct pf_activity_value *from = bpf_map_lookup_elem(&pf_activity, &addresses->source);

	/* Not `if (!to && !from) return`: clang joins the pointers by OR, which no verifier allows. */
	if (to)
		count(&to->received, bytes);
	if (from)
		count(&from->sent, bytes);
}

/* Fragments of a jumbo frame are allowed: the headers are in the first one. */
SEC("xdp.frags")
int activity_xdp(struct xdp_md *ctx)
{
	struct pf_cursor cursor = {
		.at = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
	struct pf_addresses addresses;

	if (pf_parse_addresses(&cursor, &addresses) == 0)
		note(&addresses, bpf_xdp_get_buff_len(ctx));
	return XDP_PASS;
}

SEC("tc")
int activity_tc(struct __sk_buff *skb)
{
	struct pf_cursor cursor = {
		.at = (void *)(long)skb->data,
		.end = (void *)(long)skb->data_end,
	};
	struct pf_addresses addresses;
	int parsed = pf_parse_addresses(&cursor, &addresses);

	if (parsed == PF_PARSE_SHORT) {
		/* The headers may lie in the skb's fragments; the pull fails if there are no more. */
		__u32 wanted = skb->len < PF_PARSE_MAX_BYTES ? skb->len : PF_PARSE_MAX_BYTES;

		if (bpf_skb_pull_data(skb, wanted) == 0) {
			cursor.at = (void *)(long)skb->data;
			cursor.end = (void *)(long)skb->data_end;
			parsed = pf_parse_addresses(&cursor, &addresses);
		}
	}
	if (parsed == 0)
		note(&addresses, skb->len);
	return PF_TC_NEXT;
}

/* The kernel's list of GPL-compatible licences knows no "GPL-2.0 OR Apache-2.0". */
char license_name[] SEC("license") = "GPL";
