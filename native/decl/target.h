/* SPDX-License-Identifier: Apache-2.0 */
static const int PF_TARGET_KIND_NONE;
static const int PF_TARGET_KIND_LINK;
static const int PF_TARGET_KIND_TUNNEL;

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
