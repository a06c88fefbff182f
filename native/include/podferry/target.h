/* SPDX-License-Identifier: Apache-2.0 */
/* Where packets of a moved pod go, as in bpf/include/pf_target.h, where the fields are explained. */
#pragma once

#include <stdint.h>

enum pf_target_kinds {
	PF_TARGET_KIND_NONE = 0,
	PF_TARGET_KIND_LINK = 1,
	PF_TARGET_KIND_TUNNEL = 2,
};

struct pf_target_value {
	uint32_t kind;
	uint32_t ifindex;
	uint32_t mtu_bytes;
	uint32_t bounce_ifindex;
	uint8_t next_hop[16];
	uint8_t source[16];
	uint8_t bounce_mac[6];
	uint8_t padding[2];
};
