/* SPDX-License-Identifier: Apache-2.0 */
/* The frames of a page stream; docs/wire.md has the byte layout. No I/O. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "podferry/stream.h"

#define PF_FRAME_MAGIC     0x31534650u /* "PFS1" */
#define PF_STREAM_VERSION  1u
#define PF_FRAME_NAME_MAX  96u
#define PF_FRAME_TEXT_MAX  900u
#define PF_FRAME_FILE_MAX  (256u << 10)
#define PF_FRAME_PAGES_MAX (256u << 10)
/* The longest payload of any frame. */
#define PF_FRAME_PAYLOAD_MAX (PF_FRAME_FILE_MAX + PF_FRAME_NAME_MAX)

enum pf_frame_type {
	PF_FRAME_HELLO = 1,
	PF_FRAME_WELCOME = 2,
	PF_FRAME_PAGES = 3,
	PF_FRAME_FILE = 4,
	PF_FRAME_FORGET = 5,
	PF_FRAME_FLUSH = 6,
	PF_FRAME_ACK = 7,
	PF_FRAME_TABLE = 8,
	PF_FRAME_BLOCK = 9,
	PF_FRAME_TABLE_END = 10,
	PF_FRAME_ERROR = 11,
	PF_FRAME_LAST = PF_FRAME_ERROR,
};

enum pf_frame_flags {
	PF_FRAME_LZ4 = 1 << 0,       /* pages: the payload is one LZ4 block */
	PF_FRAME_GROWING = 1 << 1,   /* file: its size is not known yet */
	PF_FRAME_ALL_LANES = 1 << 2, /* ack: every lane has come so far */
	PF_FRAME_FLAGS = 7,
};

/* Little-endian, as every machine that CRIU runs on is. */
struct pf_frame {
	uint32_t magic;
	uint16_t type;
	uint16_t flags;
	uint32_t payload_bytes;
	int32_t pid;
	uint64_t place; /* address of a block; offset in a file; number of a flush */
	uint64_t data;  /* bits of pages with bytes; size of a file */
	uint64_t zero;  /* bits of zero pages */
	uint32_t round;
	uint32_t name_bytes;
	uint64_t payload_sum;
	uint64_t head_sum;
};

struct pf_hello {
	uint32_t version;
	uint32_t lane;
	uint32_t lanes;
	uint32_t reserved;
	uint64_t session;
	uint8_t token[PF_STREAM_TOKEN_BYTES];
};

_Static_assert(sizeof(struct pf_frame) == 64, "docs/wire.md");
_Static_assert(sizeof(struct pf_hello) == 56, "docs/wire.md");
_Static_assert(sizeof(struct pf_store_counts) == 48, "docs/wire.md: the payload of an ack");

/* Puts magic and both sums into a frame that is complete otherwise. */
void pf_frame_seal(struct pf_frame *frame, uint64_t payload_sum);
/* xxh3 of a payload that is no page. */
uint64_t pf_frame_sum(const void *payload, uint32_t bytes);
/* Whether the head alone is sound: sums, type, bounds, what must be zero. */
int pf_frame_check(const struct pf_frame *frame, struct pf_error *err);
/* Whether a file may bear this name: one plain component of letters, digits, - _ and . */
bool pf_frame_name_is_plain(const char *name, size_t bytes);
