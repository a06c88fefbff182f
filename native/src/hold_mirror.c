// SPDX-License-Identifier: Apache-2.0
/* Proves at compile time that what the library says of a hold is what the BPF programs say. */
#include "hold_shared.h"
#include "podferry/hold.h"

_Static_assert(sizeof(struct pf_hold_settings) == sizeof(struct pf_hold_config),
	       "the public settings mirror the map's value");
_Static_assert(sizeof(struct pf_hold_counters) == sizeof(struct pf_hold_counts),
	       "the public counters mirror the map's value");
_Static_assert(sizeof(struct pf_hold_waking) == sizeof(struct pf_hold_event),
	       "the public event mirrors the program's");
_Static_assert(sizeof(struct pf_target_value) == sizeof(struct pf_target),
	       "the public target mirrors the map's value");
_Static_assert((int)PF_TARGET_KIND_LINK == PF_TARGET_LINK &&
		       (int)PF_TARGET_KIND_TUNNEL == PF_TARGET_TUNNEL &&
		       (int)PF_HOLD_TARGETS_MAX == PF_HOLD_TARGETS,
	       "the public targets are the programs'");
_Static_assert(PF_HOLD_ADDRESSES_MAX == PF_HOLD_MAX_ADDRESSES, "one bound");
_Static_assert(PF_HOLD_FLAG_CLSACT_IS_OURS == PF_HOLD_CLSACT_IS_OURS &&
		       PF_HOLD_FLAG_CLSACT == PF_HOLD_CLSACT &&
		       PF_HOLD_FLAG_DELIVER_PEER == PF_HOLD_DELIVER_PEER &&
		       PF_HOLD_FLAG_SHARED_DEVICE == PF_HOLD_SHARED_DEVICE &&
		       PF_HOLD_FLAG_WAKE_ON_ICMP == PF_HOLD_WAKE_ON_ICMP,
	       "the public flags are the programs'");
_Static_assert((int)PF_HOLD_PHASE_PASS == PF_HOLD_PASS && (int)PF_HOLD_PHASE_HELD == PF_HOLD_HELD &&
		       (int)PF_HOLD_PHASE_RELEASING == PF_HOLD_RELEASING &&
		       (int)PF_HOLD_PHASE_FORWARDING == PF_HOLD_FORWARDING &&
		       (int)PF_HOLD_PHASE_FORWARD == PF_HOLD_FORWARD &&
		       (int)PF_HOLD_PHASE_SPEAKING == PF_HOLD_SPEAKING,
	       "the public phases are the programs'");
