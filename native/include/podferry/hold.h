/* SPDX-License-Identifier: Apache-2.0 */
/* The hold of one pod's packets: loads bpf/hold, attaches it and finds it again by its pins.
 *
 * A hold is a directory of a bpf file system: programs, maps and links are pinned there and outlive
 * every process. The devices (the plug, its qdisc) are the caller's; docs/hold.md has the whole
 * picture. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "podferry/error.h"
#include "podferry/target.h"

struct pf_hold;

enum pf_hold_limits {
	PF_HOLD_ADDRESSES_MAX = 16,
	PF_HOLD_TARGETS_MAX = 2,
};

enum pf_hold_phases {
	PF_HOLD_PHASE_PASS = 0,
	PF_HOLD_PHASE_HELD = 1,
	PF_HOLD_PHASE_RELEASING = 2,
	PF_HOLD_PHASE_FORWARDING = 3,
	PF_HOLD_PHASE_FORWARD = 4,
	PF_HOLD_PHASE_SPEAKING = 5,
};

enum pf_hold_flags {
	PF_HOLD_FLAG_WAKE_ON_ICMP = 1 << 0,
	PF_HOLD_FLAG_SHARED_DEVICE = 1 << 1,
	PF_HOLD_FLAG_DELIVER_PEER = 1 << 2,
	PF_HOLD_FLAG_CLSACT = 1 << 3, /* wanted; set by pf_hold_install where tcx is missing */
	PF_HOLD_FLAG_CLSACT_IS_OURS = 1 << 4,
};

/* As in bpf/hold/hold_shared.h, where the fields are explained. */
struct pf_hold_settings {
	uint64_t max_bytes;
	uint32_t max_packets;
	uint32_t flags;
	uint32_t pod_ifindex;
	uint32_t plug_ifindex;
	uint32_t far_ifindex;
	uint8_t pod_mac[6];
	uint8_t padding[2];
};

struct pf_hold_counters {
	uint64_t in_packets;
	uint64_t in_bytes;
	uint64_t out_packets;
	uint64_t out_bytes;
	uint64_t over_packets;
	uint64_t over_bytes;
	uint64_t quiet_over_packets;
	uint64_t shielded_packets;
	uint64_t shielded_resets;
	uint64_t shielded_icmp;
	uint64_t strays;
	uint64_t looped;
	uint64_t first_in_ns;
	uint64_t last_in_ns;
	uint64_t first_out_ns;
	uint64_t last_out_ns;
	uint64_t forwarded_packets;
	uint64_t bounced_packets;
	uint64_t unsent_packets;
	uint32_t lock; /* the programs'; reads as 0 */
	uint32_t out_cpu;
};

struct pf_hold_waking {
	uint64_t time_ns;
	uint32_t cause;
	uint16_t source_port;
	uint16_t destination_port;
	uint8_t source[16];
	uint8_t destination[16];
	uint8_t protocol;
	uint8_t padding[7];
};

/* Loads, pins in PIN_DIR (which exists and is of a bpf file system) and attaches; nothing is held
 * until the phase is set. A failure leaves what pf_hold_uninstall removes. */
int pf_hold_install(const char *pin_dir, const struct pf_hold_settings *settings,
		    const uint8_t *addresses, size_t address_count, char *verifier_log,
		    size_t verifier_log_bytes, struct pf_error *err);

/* Detaches and unpins all that is in PIN_DIR, which stays; 0 if there is no such directory. */
int pf_hold_uninstall(const char *pin_dir, struct pf_error *err);

/* Opens an installed hold; -ENOENT where a pin is missing. */
int pf_hold_open(struct pf_hold **out, const char *pin_dir, struct pf_error *err);

/* Lets go; what is pinned stays. NULL is allowed. */
void pf_hold_close(struct pf_hold *hold);

/* The map whose element 0, a uint32_t, is the phase; owned by HOLD. */
int pf_hold_phase_fd(const struct pf_hold *hold);

/* The ring buffer; readable (poll) from the waking packet until it is taken; owned by HOLD. */
int pf_hold_events_fd(const struct pf_hold *hold);

int pf_hold_read_phase(const struct pf_hold *hold, uint32_t *phase, struct pf_error *err);
int pf_hold_write_phase(const struct pf_hold *hold, uint32_t phase, struct pf_error *err);
int pf_hold_read_settings(const struct pf_hold *hold, struct pf_hold_settings *out,
			  struct pf_error *err);
int pf_hold_read_counters(const struct pf_hold *hold, struct pf_hold_counters *out,
			  struct pf_error *err);

/* OUT has room for PF_HOLD_ADDRESSES_MAX addresses of 16 bytes; COUNT gets their number. */
int pf_hold_read_addresses(const struct pf_hold *hold, uint8_t *out, size_t *count,
			   struct pf_error *err);

/* Where packets of one family (0: IPv4, 1: IPv6) go in the phases FORWARDING and FORWARD.
 * -ENOTSUP: the hold was made by a version that cannot forward. */
int pf_hold_write_target(const struct pf_hold *hold, uint32_t family,
			 const struct pf_target_value *target, struct pf_error *err);
int pf_hold_read_target(const struct pf_hold *hold, uint32_t family, struct pf_target_value *out,
			struct pf_error *err);

/* Ends RELEASING or FORWARDING if a packet that came now, on this thread's CPU, would end it; the
 * phase then is in PHASE. */
int pf_hold_settle(const struct pf_hold *hold, uint32_t *phase, struct pf_error *err);

/* Before the phase becomes HELD: zeroes the counters, drops old events. */
int pf_hold_rearm(const struct pf_hold *hold, struct pf_error *err);

/* In HELD: the next waking packet raises an event although one was raised and taken before; an event
 * that nobody has taken stays. */
int pf_hold_listen_again(const struct pf_hold *hold, struct pf_error *err);

/* Takes one event; 1 if there was one, 0 if not. */
int pf_hold_take_event(const struct pf_hold *hold, struct pf_hold_waking *out,
		       struct pf_error *err);

enum pf_hold_programs {
	PF_HOLD_PROGRAM_TO_POD = 0,
	PF_HOLD_PROGRAM_FROM_POD = 1,
	PF_HOLD_PROGRAM_FAR_END = 2,
};

/* Runs a program once on a frame of the caller's that bears MARK, without a device. */
int pf_hold_test_run(const struct pf_hold *hold, int program, const void *frame, size_t frame_bytes,
		     uint32_t mark, uint32_t *verdict, struct pf_error *err);

/* Makes PIN_DIR's parents and PIN_DIR, 0700, after a bpf file system was mounted at ROOT if there
 * is none. */
int pf_hold_make_pin_dir(const char *root, const char *pin_dir, struct pf_error *err);

/* What stands at the pod's side: the device that bears ADDRESS, its MAC, and the index of its
 * other end in the namespace that is the veth's other side; -ENODEV if no device bears it. */
int pf_hold_find_device(const char *netns_path, const uint8_t address[16], uint32_t *ifindex,
			uint32_t *peer_ifindex, uint8_t mac[6], struct pf_error *err);
