/* SPDX-License-Identifier: Apache-2.0 */
/* The rerouting programs of a node: loads bpf/reroute, attaches it, reads and writes its maps.
 *
 * Maps and links are pinned in one directory of a bpf file system and outlive every process. Keys and
 * values are those of bpf/reroute/reroute_shared.h. docs/reroute.md has the whole picture. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "podferry/error.h"
#include "podferry/target.h"

struct pf_reroute;

enum pf_reroute_maps {
	PF_REROUTE_MAP_ADDRESSES = 0, /* 16 bytes -> struct pf_reroute_value */
	PF_REROUTE_MAP_FLOWS = 1,     /* struct pf_reroute_key -> struct pf_reroute_value */
	PF_REROUTE_MAP_NODES = 2,     /* 16 bytes -> uint32_t */
};

enum pf_reroute_programs {
	PF_REROUTE_PROGRAM_INGRESS = 0,
	PF_REROUTE_PROGRAM_EGRESS = 1,
	PF_REROUTE_PROGRAM_FROM_POD = 2,
	PF_REROUTE_PROGRAM_XDP = 3,
};

enum pf_reroute_xdp_modes {
	PF_REROUTE_XDP_ANY = 0, /* the driver's if it has one */
	PF_REROUTE_XDP_GENERIC = 1,
	PF_REROUTE_XDP_NATIVE = 2,
};

enum pf_reroute_node_kinds {
	PF_REROUTE_NODE_PEER = 1,
	PF_REROUTE_NODE_SELF = 2,
};

enum pf_reroute_flags {
	PF_REROUTE_FLAG_OWN_ONLY = 1,
};

struct pf_reroute_key {
	uint8_t source[16];
	uint8_t destination[16];
	uint16_t source_port; /* network byte order, as the next */
	uint16_t destination_port;
	uint8_t protocol;
	uint8_t padding[3];
};

struct pf_reroute_value {
	struct pf_target_value target;
	uint64_t epoch;
	uint64_t expires_ns;
	uint32_t flags;
	uint32_t padding;
	uint64_t packets;
	uint64_t bytes;
};

struct pf_reroute_counters {
	uint64_t sent;
	uint64_t opened;
	uint64_t strange;
	uint64_t expired;
	uint64_t too_long;
	uint64_t failed;
};

/* Loads the programs; the maps are those pinned in PIN_DIR (which exists), or are pinned there. */
int pf_reroute_open(struct pf_reroute **out, const char *pin_dir, char *verifier_log,
		    size_t verifier_log_bytes, struct pf_error *err);

/* Lets go; what is pinned or attached stays. NULL is allowed. */
void pf_reroute_close(struct pf_reroute *reroute);

/* Attaches a program to a device and pins the link; where it is attached already, the program is
 * replaced at once by this one. -EINVAL where the kernel has no tcx (before 6.6). */
int pf_reroute_attach(const struct pf_reroute *reroute, int program, uint32_t ifindex, int xdp_mode,
		      struct pf_error *err);

/* -ENOENT where it is not attached. */
int pf_reroute_detach(const char *pin_dir, int program, uint32_t ifindex, struct pf_error *err);

/* Detaches and unpins all that is in PIN_DIR, which stays; 0 if there is no such directory. */
int pf_reroute_uninstall(const char *pin_dir, struct pf_error *err);

int pf_reroute_put(const struct pf_reroute *reroute, int map, const void *key, const void *value,
		   struct pf_error *err);
/* -ENOENT: there is no such key. */
int pf_reroute_get(const struct pf_reroute *reroute, int map, const void *key, void *value,
		   struct pf_error *err);
int pf_reroute_drop(const struct pf_reroute *reroute, int map, const void *key,
		    struct pf_error *err);
/* The key after PREVIOUS (NULL: the first); 1, or 0 at the end. */
int pf_reroute_next(const struct pf_reroute *reroute, int map, const void *previous, void *key,
		    struct pf_error *err);

int pf_reroute_read_counters(const struct pf_reroute *reroute, struct pf_reroute_counters *out,
			     struct pf_error *err);

/* Runs a program REPEAT times on a frame as if it had come by device IFINDEX; OUT has room for
 * *OUT_BYTES and gets the frame as the program has left it. DURATION_NS is that of one run. */
int pf_reroute_test_run(const struct pf_reroute *reroute, int program, const void *frame,
			size_t frame_bytes, uint32_t ifindex, uint32_t repeat, void *out,
			size_t *out_bytes, uint32_t *verdict, uint32_t *duration_ns,
			struct pf_error *err);
