// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Holds the packets towards one pod that sleeps or moves, keeps its kernel from answering for it, and
 * sends them on to where the pod has moved.
 *
 * hold_to_pod is for the egress of the host's end of the pod's veth, hold_from_pod for its ingress,
 * hold_far_end for the ingress of the plug's far end. The plug is a pair of veths whose near end
 * has a qdisc that lets nothing through until it is changed: it, and not a process, keeps the
 * packets. Each hold has programs and maps of its own. */
#include "hold_classify.h"
#include "hold_shared.h"
#include "pf_send.h"

/* tc's verdict, from <linux/pkt_cls.h>: it leaves the decision to the next program or filter. */
#define PF_TC_NEXT (-1)

#define PF_PACKET_HOST 0 /* from <linux/if_packet.h> */

/* Written by: the library and whoever releases or forwards; hold_to_pod and hold_settle make PASS of
 * RELEASING and FORWARD of FORWARDING, under the lock of the counts. Read by: all programs. One u32,
 * so that a release is one map update. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} pf_hold_phase SEC(".maps");

/* Written by: the library, once, before anything is attached. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pf_hold_config);
} pf_hold_config SEC(".maps");

/* Written by: the programs, what goes in and out under the lock and the rest atomically; the library
 * zeroes it at arming. Not per CPU: what went in on one CPU comes out on another, and the difference
 * decides. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pf_hold_counts);
} pf_hold_counts SEC(".maps");

/* Whether the event of this arming was raised. Written by: hold_to_pod; the library at arming. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} pf_hold_raised SEC(".maps");

/* Written by: the library, once. Read by: the programs; a key present is an address of the pod. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PF_HOLD_MAX_ADDRESSES);
	__type(key, struct pf_address);
	__type(value, __u32);
} pf_hold_addresses SEC(".maps");

/* Written by: hold_to_pod. Read by: whoever wakes the pod; its fd is readable until it is drained. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, PF_HOLD_EVENTS_BYTES);
} pf_hold_events SEC(".maps");

/* Written by: the library, before the phase says FORWARDING. Read by: the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PF_HOLD_TARGETS);
	__type(key, __u32);
	__type(value, struct pf_target);
} pf_hold_targets SEC(".maps");

struct hold {
	__u32 *phase;
	struct pf_hold_config *config;
	struct pf_hold_counts *counts;
};

/* The elements of array maps are always there; the verifier wants it said. */
static __always_inline int find(struct hold *hold)
{
	__u32 zero = 0;

	hold->phase = bpf_map_lookup_elem(&pf_hold_phase, &zero);
	hold->config = bpf_map_lookup_elem(&pf_hold_config, &zero);
	hold->counts = bpf_map_lookup_elem(&pf_hold_counts, &zero);
	return hold->phase && hold->config && hold->counts;
}

static __always_inline __u32 phase_of(const struct hold *hold)
{
	return *(volatile __u32 *)hold->phase;
}

static __always_inline void add(__u64 *counter, __u64 amount)
{
	__sync_fetch_and_add(counter, amount);
}

/* The same number before and after the kernel has cut a packet into its segments. */
static __always_inline __u64 segments(const struct __sk_buff *skb)
{
	return skb->gso_segs ? skb->gso_segs : 1;
}

static __always_inline int is_of_pod(const struct pf_address *address)
{
	return bpf_map_lookup_elem(&pf_hold_addresses, address) != NULL;
}

/* A frame for all, or for another than the pod (a bridge floods what it has not learned). */
static __always_inline int is_for_others(struct __sk_buff *skb, const struct pf_hold_config *config)
{
	__u8 destination[6], different = 0, known = 0;

	if (bpf_skb_load_bytes(skb, 0, destination, sizeof(destination)) < 0)
		return 1;
	if (destination[0] & 1)
		return 1;
#pragma unroll
	for (int i = 0; i < 6; i++) {
		known |= config->pod_mac[i];
		different |= config->pod_mac[i] ^ destination[i];
	}
	return known && different;
}

static __always_inline int wakes(const struct pf_hold_packet *packet,
				 const struct pf_hold_config *config)
{
	if (!packet->cause || !is_of_pod(&packet->addresses.destination))
		return 0;
	return packet->cause != PF_HOLD_ICMP || (config->flags & PF_HOLD_WAKE_ON_ICMP);
}

static __always_inline void raise_event(const struct pf_hold_packet *packet)
{
	__u32 zero = 0;
	__u32 *raised = bpf_map_lookup_elem(&pf_hold_raised, &zero);
	struct pf_hold_event *event;

	if (!raised || *(volatile __u32 *)raised || __sync_lock_test_and_set(raised, 1))
		return;
	event = bpf_ringbuf_reserve(&pf_hold_events, sizeof(*event), 0);
	if (!event) {
		*raised = 0; /* the next packet tries again */
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->cause = packet->cause;
	event->protocol = packet->protocol;
	event->source_port = packet->source_port;
	event->destination_port = packet->destination_port;
	__builtin_memcpy(event->source, &packet->addresses.source, sizeof(event->source));
	__builtin_memcpy(event->destination, &packet->addresses.destination,
			 sizeof(event->destination));
	bpf_ringbuf_submit(event, 0);
}

/* Here and below "locked" means: under the lock of the counts, where no helper may be called.
 *
 * Whether a packet that comes now on this CPU may go around the plug without overtaking another: as
 * much has come out as went in, and the last of it on this CPU. What comes out goes on to the pod
 * within the same softirq, in which this program does not run; and the plug's far end, which is
 * polled, moves to another CPU only when it is done on the former. Elsewhere than on this CPU the
 * last packets may have been counted and still be on their way, for as long as that CPU stands still.
 * A closed plug is never taken for empty: nothing has come out of it. */
static __always_inline int is_drained_locked(const struct pf_hold_counts *counts, __u32 cpu,
					     __u64 now_ns)
{
	if (counts->in_packets == counts->out_packets)
		return !counts->in_packets || counts->out_cpu == cpu;
	return counts->last_out_ns && (__s64)(now_ns - counts->last_in_ns) > PF_HOLD_QUIET_NS &&
	       (__s64)(now_ns - counts->last_out_ns) > PF_HOLD_QUIET_NS;
}

/* The phase, after the end of a release that may end. Nothing can enter the plug meanwhile; who
 * writes the phase from outside knows of no lock. */
static __always_inline __u32 settle_locked(const struct hold *hold, __u32 cpu, __u64 now_ns)
{
	__u32 phase = phase_of(hold), next, before;

	if (phase == PF_HOLD_RELEASING)
		next = PF_HOLD_PASS;
	else if (phase == PF_HOLD_FORWARDING)
		next = PF_HOLD_FORWARD;
	else
		return phase;
	if (!is_drained_locked(hold->counts, cpu, now_ns))
		return phase;
	before = __sync_val_compare_and_swap(hold->phase, phase, next);
	return before == phase ? next : before;
}

/* Counts a packet in if it fits; one that does not is counted too. */
static __always_inline int enter_locked(const struct hold *hold, __u64 packets, __u64 bytes,
					int waking, __u64 now_ns)
{
	struct pf_hold_counts *counts = hold->counts;
	__s64 held_packets = counts->in_packets - counts->out_packets;
	__s64 held_bytes = counts->in_bytes - counts->out_bytes;
	__s64 max_packets = hold->config->max_packets;
	__s64 max_bytes = hold->config->max_bytes;

	if (!waking) {
		max_packets >>= PF_HOLD_QUIET_SHIFT;
		max_bytes >>= PF_HOLD_QUIET_SHIFT;
	}
	if (held_packets + (__s64)packets > max_packets || held_bytes + (__s64)bytes > max_bytes) {
		if (waking) {
			counts->over_packets += packets;
			counts->over_bytes += bytes;
		} else {
			counts->quiet_over_packets += packets;
		}
		return 0;
	}
	counts->in_packets += packets;
	counts->in_bytes += bytes;
	if (!counts->first_in_ns)
		counts->first_in_ns = now_ns;
	counts->last_in_ns = now_ns;
	return 1;
}

/* To where the pod is now. Only what is the pod's: the rest was for the old namespace. */
static __always_inline int forward(struct __sk_buff *skb, const struct hold *hold,
				   const struct pf_address *destination)
{
	__u32 family =
		skb->protocol == bpf_htons(ETH_P_IP) ? PF_HOLD_TARGET_IPV4 : PF_HOLD_TARGET_IPV6;
	struct pf_target *target = bpf_map_lookup_elem(&pf_hold_targets, &family);
	__u64 packets = segments(skb);
	int verdict = PF_SEND_FAILED;

	skb->mark = 0;
	if (target && is_of_pod(destination))
		verdict = pf_send(skb, target);
	if (verdict == PF_SEND_TOO_LONG) {
		add(&hold->counts->bounced_packets, packets);
		return pf_bounce(skb, target);
	}
	if (verdict < 0 || verdict == PF_TC_SHOT) {
		add(&hold->counts->unsent_packets, packets);
		return PF_TC_SHOT;
	}
	add(&hold->counts->forwarded_packets, packets);
	return verdict;
}

static __always_inline int is_open(__u32 phase)
{
	return phase == PF_HOLD_RELEASING || phase == PF_HOLD_FORWARDING;
}

SEC("tc")
int hold_to_pod(struct __sk_buff *skb)
{
	struct pf_hold_packet packet;
	struct hold hold;
	__u64 packets, bytes, now_ns;
	__u32 phase, cpu;
	int waking, fits = 0;

	if (!find(&hold))
		return PF_TC_NEXT;
	if (skb->mark == PF_HOLD_MARK) { /* from the far end, on its way to the pod */
		skb->mark = 0;
		return PF_TC_NEXT;
	}
	if (phase_of(&hold) == PF_HOLD_PASS)
		return PF_TC_NEXT;
	if (is_for_others(skb, hold.config))
		return PF_TC_NEXT;
	pf_hold_classify(skb, &packet);
	/* ARP and neighbour discovery pass: the namespace answers them in the pod's sleep too. */
	if (!packet.is_ip || packet.is_discovery)
		return PF_TC_NEXT;
	if ((hold.config->flags & PF_HOLD_SHARED_DEVICE) &&
	    !is_of_pod(&packet.addresses.destination))
		return PF_TC_NEXT;
	waking = wakes(&packet, hold.config);
	packets = segments(skb);
	bytes = skb->len;
	cpu = bpf_get_smp_processor_id();
	now_ns = bpf_ktime_get_ns();

	bpf_spin_lock(&hold.counts->lock);
	phase = settle_locked(&hold, cpu, now_ns);
	if (phase != PF_HOLD_PASS && phase != PF_HOLD_FORWARD)
		fits = enter_locked(&hold, packets, bytes, waking || is_open(phase), now_ns);
	bpf_spin_unlock(&hold.counts->lock);

	if (phase == PF_HOLD_PASS)
		return PF_TC_NEXT;
	if (phase == PF_HOLD_FORWARD)
		return forward(skb, &hold, &packet.addresses.destination);
	if (waking && !is_open(phase))
		raise_event(&packet);
	if (!fits)
		return PF_TC_SHOT;
	skb->mark = PF_HOLD_MARK;
	return bpf_redirect(hold.config->plug_ifindex, 0);
}

/* Attached nowhere: the library runs it, for a pod to whom nobody speaks. Returns the phase. */
SEC("tc")
int hold_settle(struct __sk_buff *skb)
{
	struct hold hold;
	__u32 phase, cpu = bpf_get_smp_processor_id();
	__u64 now_ns = bpf_ktime_get_ns();

	(void)skb;
	if (!find(&hold))
		return PF_HOLD_PASS;
	bpf_spin_lock(&hold.counts->lock);
	phase = settle_locked(&hold, cpu, now_ns);
	bpf_spin_unlock(&hold.counts->lock);
	return phase;
}

static __always_inline int shield(const struct hold *hold, const struct __sk_buff *skb,
				  const struct pf_hold_packet *packet)
{
	add(&hold->counts->shielded_packets, segments(skb));
	if (packet->is_reset)
		add(&hold->counts->shielded_resets, 1);
	if (packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6)
		add(&hold->counts->shielded_icmp, 1);
	return PF_TC_SHOT;
}

SEC("tc")
int hold_from_pod(struct __sk_buff *skb)
{
	struct pf_hold_packet packet;
	struct hold hold;
	__u32 phase;

	if (!find(&hold))
		return PF_TC_NEXT;
	phase = phase_of(&hold);
	if (phase == PF_HOLD_PASS || phase == PF_HOLD_RELEASING || phase == PF_HOLD_SPEAKING)
		return PF_TC_NEXT;
	pf_hold_classify(skb, &packet);
	/* Once it has moved away, its old namespace must not draw its neighbours back to its MAC. */
	if (phase == PF_HOLD_FORWARD && !(hold.config->flags & PF_HOLD_SHARED_DEVICE))
		return shield(&hold, skb, &packet);
	if (!packet.is_ip || packet.is_discovery)
		return PF_TC_NEXT;
	if ((hold.config->flags & PF_HOLD_SHARED_DEVICE) && !is_of_pod(&packet.addresses.source))
		return PF_TC_NEXT;
	return shield(&hold, skb, &packet);
}

SEC("tc")
int hold_far_end(struct __sk_buff *skb)
{
	struct pf_hold_packet packet;
	struct pf_hold_counts *counts;
	struct hold hold;
	__u64 packets = segments(skb), bytes = skb->len, now_ns = bpf_ktime_get_ns();
	__u32 phase, cpu = bpf_get_smp_processor_id();
	int is_stray = skb->mark != PF_HOLD_MARK;

	if (!find(&hold))
		return PF_TC_SHOT;
	counts = hold.counts;
	phase = phase_of(&hold);
	/* A kernel whose qdisc is no perfect plug: the packet is delayed, not lost. */
	if (!is_stray && (phase == PF_HOLD_HELD || phase == PF_HOLD_SPEAKING)) {
		add(&counts->looped, 1);
		return bpf_redirect(hold.config->plug_ifindex, 0);
	}
	bpf_spin_lock(&counts->lock);
	counts->out_cpu = cpu;
	if (is_stray) {
		counts->strays++;
	} else {
		if (!counts->first_out_ns)
			counts->first_out_ns = now_ns;
		counts->last_out_ns = now_ns;
		counts->out_bytes += bytes;
		counts->out_packets += packets;
	}
	bpf_spin_unlock(&counts->lock);
	if (is_stray)
		return PF_TC_SHOT;
	if (phase == PF_HOLD_FORWARDING || phase == PF_HOLD_FORWARD) {
		pf_hold_classify(skb, &packet);
		return forward(skb, &hold, &packet.addresses.destination);
	}
	if (!(hold.config->flags & PF_HOLD_DELIVER_PEER))
		return bpf_redirect(hold.config->pod_ifindex, 0);
	skb->mark = 0;
	/* It was addressed to the pod's MAC, so the far end took it for somebody else's. */
	bpf_skb_change_type(skb, PF_PACKET_HOST);
	return bpf_redirect_peer(hold.config->pod_ifindex, 0);
}

/* The kernel's list of GPL-compatible licences knows no "GPL-2.0 OR Apache-2.0". */
char license_name[] SEC("license") = "GPL";
