/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the control protocol's layout (docs/monitor.md); constants and parsing, no sockets. */
#ifndef PR_WIRE_H
#define PR_WIRE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PR_MAGIC        0x314D4650u /* "PFM1" */
#define PR_VERSION      1
#define PR_PACKET_BYTES 65536
#define PR_FDS_MAX      32

/* Little endian, as are all numbers of the protocol. */
struct pr_header {
	uint32_t magic;
	uint16_t version;
	uint16_t verb;
	uint32_t tag; /* the answer carries the question's */
	int32_t status;
	uint32_t flags;
	uint32_t body_bytes;
};
static_assert(sizeof(struct pr_header) == 24, "the header's layout is the protocol");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied, not converted");

enum pr_verb {
	PR_STATE = 1,
	PR_LEASE = 2,
	PR_STARTED = 3,
	PR_CHECKPOINT = 4,
	PR_ARM = 5,
	PR_DISARM = 6,
	PR_WAKE = 7,
	PR_KILL = 8,
	PR_DELETE = 9,
	PR_SUBSCRIBE = 10,
	PR_EVENT = 11,
	PR_RESUME = 12,
	PR_DEPART = 13,
	PR_EXIT = 14,
	PR_CLAIM = 15,
	PR_UNCLAIM = 16,
	PR_PREPARE = 17,
	PR_GO = 18,
	PR_DROP = 19,
};

enum pr_flag {
	PR_FLAG_LEAVE_RUNNING = 1, /* CHECKPOINT: the container goes on, nothing sleeps */
	PR_FLAG_FORCE = 2,         /* DELETE */
	PR_FLAG_AWAKE = 4,         /* LEASE: wake first */
	PR_FLAG_REMOVE_IMAGES = 8, /* ARM: once woken and filled, the images go */
	PR_FLAG_HOLD = 16,         /* CHECKPOINT: stop at its end, until RESUME or DEPART */
	PR_FLAG_STAGE = 32,        /* WAKE: stop before the tasks run, until GO or DROP */
	PR_FLAG_SIGNAL = 64,       /* LEASE: for a signal to the container's init */
	PR_FLAG_READY = 256,       /* ARM of a sleeper: CRIU and the pager start now and wait */
};

enum pr_status {
	PR_OK = 0,
	PR_BAD_REQUEST = 1,
	PR_WRONG_STATE = 2,
	PR_BUSY = 3,
	PR_REFUSED = 4,
	PR_CRIU_FAILED = 5,
	PR_INTERNAL = 6,
	PR_ALREADY = 7, /* to the front: done, there is nothing left for runc to do */
};

enum pr_state {
	PR_FRESH = 0,
	PR_RUNNING = 1,
	PR_CHECKPOINTING = 2,
	PR_ASLEEP = 3,
	PR_WAKING = 4,
	PR_ENDING = 5,
	PR_HELD = 6,
	PR_DEPARTED = 7,
	PR_CLAIMED = 8,
	PR_STAGED = 9,
};

enum pr_cause {
	PR_BY_CLIENT = 1,
	PR_BY_TRIGGER = 2,
	PR_BY_VERB = 3,
};

struct pr_item_header {
	uint16_t type;
	uint16_t zero;
	uint32_t bytes; /* of the payload; the next item starts at the next multiple of four */
};
static_assert(sizeof(struct pr_item_header) == 8, "an item's layout is the protocol");

enum pr_item {
	PR_ITEM_TEXT = 1,
	PR_ITEM_STATE = 2,
	PR_ITEM_REQUEST = 3,
	PR_ITEM_IMAGES = 4,
	PR_ITEM_PAGER_ARGV = 5,
	PR_ITEM_CRIU_NAMESPACES = 6,
	PR_ITEM_TRIGGERS = 7,
	PR_ITEM_CRIU_FDS = 8,
	PR_ITEM_PAGER_FDS = 9,
	PR_ITEM_MAP = 10,
	PR_ITEM_NETLINK = 11,
	PR_ITEM_WRITE = 12,
	PR_ITEM_EVENT = 13,
	PR_ITEM_TIMEOUT_MS = 14,
	PR_ITEM_STATUS = 15,
	PR_ITEM_CRIU_ENVIRONMENT = 16,
};

struct pr_state_item {
	uint32_t state;
	uint32_t monitor_pid;
	uint32_t init_pid;        /* 0 while asleep or departed */
	uint32_t placeholder_pid; /* 0 if there is none */
	uint64_t init_start;      /* field 22 of /proc/PID/stat */
	uint64_t since_ns;        /* CLOCK_MONOTONIC of the last change of state */
	uint32_t sleeps;
	uint32_t wakes;
	uint32_t terminal;
	uint32_t armed;
	uint32_t leases;
	uint32_t pager_pid;
	uint64_t sequence; /* of the last event */
};
static_assert(sizeof(struct pr_state_item) == 64, "the state's layout is the protocol");

struct pr_event_item {
	uint64_t sequence;
	uint32_t from;
	uint32_t to;
	uint32_t cause;
	int32_t status;
	uint64_t begun_ns;   /* the request, or the trigger seen */
	uint64_t criu_ns;    /* CRIU has its request */
	uint64_t done_ns;    /* CRIU has answered */
	uint64_t release_ns; /* release actions done and runc's state true */
};
static_assert(sizeof(struct pr_event_item) == 56, "the event's layout is the protocol");

/* What stands in front of the key, then the value, in PR_ITEM_MAP. */
struct pr_map_item {
	uint32_t fd_index;
	uint32_t key_bytes;
	uint32_t value_bytes; /* 0 deletes the key */
	uint32_t zero;
};
static_assert(sizeof(struct pr_map_item) == 16, "a map action's layout is the protocol");

struct pr_view {
	uint16_t type;
	const uint8_t *at;
	size_t bytes;
};

/* True if packet is a header of this version with a body of whole items. */
bool pr_wire_check(const uint8_t *packet, size_t bytes, struct pr_header *header);
/* Steps through the items of a checked packet; *offset starts at 0. */
bool pr_wire_item(const uint8_t *packet, size_t bytes, size_t *offset, struct pr_view *item);
bool pr_wire_find(const uint8_t *packet, size_t bytes, uint16_t type, struct pr_view *item);

/* A text item as a C string; false if it does not fit or holds a NUL. */
bool pr_wire_text(const struct pr_view *item, char *out, size_t size);

/* Composes: start, then items; false once it does not fit. */
struct pr_packet {
	uint8_t *at;
	size_t size, used;
};
void pr_wire_start(struct pr_packet *packet, uint8_t *buffer, size_t size, uint16_t verb,
		   uint32_t tag, int32_t status, uint32_t flags);
bool pr_wire_add(struct pr_packet *packet, uint16_t type, const void *payload, size_t bytes);

#endif
