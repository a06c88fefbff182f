// SPDX-License-Identifier: Apache-2.0
/* Owns the soundness of frames. */
#include "stream_frame.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "store_table.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static uint64_t head_sum(const struct pf_frame *frame)
{
	return XXH3_64bits(frame, offsetof(struct pf_frame, head_sum));
}

uint64_t pf_frame_sum(const void *payload, uint32_t bytes)
{
	return XXH3_64bits(payload, bytes);
}

void pf_frame_seal(struct pf_frame *frame, uint64_t payload_sum)
{
	frame->magic = PF_FRAME_MAGIC;
	frame->payload_sum = payload_sum;
	frame->head_sum = head_sum(frame);
}

bool pf_frame_name_is_plain(const char *name, size_t bytes)
{
	if (bytes == 0 || bytes > PF_FRAME_NAME_MAX || name[0] == '.')
		return false;
	for (size_t at = 0; at < bytes; at++)
		if (!isascii(name[at]) || (!isalnum(name[at]) && !strchr("-_.", name[at])) ||
		    name[at] == '\0')
			return false;
	return true;
}

static bool pages_sound(const struct pf_frame *frame)
{
	uint32_t bytes = (uint32_t)__builtin_popcountll(frame->data) * PF_PAGE_BYTES;
	bool whole = frame->flags & PF_FRAME_LZ4 ? frame->payload_bytes < bytes
						 : frame->payload_bytes == bytes;

	return frame->pid > 0 && frame->place < PF_VADDR_END &&
	       frame->place % PF_BLOCK_BYTES == 0 && (frame->data & frame->zero) == 0 && whole &&
	       (bytes == 0 || frame->payload_bytes > 0) &&
	       !(frame->flags & ~(unsigned)PF_FRAME_LZ4);
}

static bool file_sound(const struct pf_frame *frame)
{
	uint64_t bytes = frame->payload_bytes - (uint64_t)frame->name_bytes;
	bool growing = frame->flags & PF_FRAME_GROWING;

	return frame->name_bytes > 0 && frame->name_bytes <= PF_FRAME_NAME_MAX &&
	       frame->name_bytes <= frame->payload_bytes && bytes <= PF_FRAME_FILE_MAX &&
	       frame->place < INT64_MAX - bytes && frame->data < INT64_MAX &&
	       (growing ? frame->data == 0 : frame->place + bytes <= frame->data) &&
	       !(frame->flags & ~(unsigned)PF_FRAME_GROWING);
}

static bool block_sound(const struct pf_frame *frame)
{
	return frame->pid > 0 && frame->place < PF_VADDR_END &&
	       frame->place % PF_BLOCK_BYTES == 0 && (frame->data & frame->zero) == 0 &&
	       frame->payload_bytes == (uint32_t)__builtin_popcountll(frame->data) * 8;
}

static bool sound(const struct pf_frame *frame)
{
	switch (frame->type) {
	case PF_FRAME_HELLO:
		return frame->payload_bytes == sizeof(struct pf_hello);
	case PF_FRAME_PAGES:
		return pages_sound(frame);
	case PF_FRAME_FILE:
		return file_sound(frame);
	case PF_FRAME_BLOCK:
		return block_sound(frame);
	case PF_FRAME_FORGET:
		return frame->pid > 0 && frame->payload_bytes == 0;
	case PF_FRAME_FLUSH:
	case PF_FRAME_ACK:
	case PF_FRAME_TABLE_END:
		return frame->payload_bytes == sizeof(struct pf_store_counts);
	case PF_FRAME_WELCOME:
	case PF_FRAME_TABLE:
		return frame->payload_bytes == 0;
	case PF_FRAME_ERROR:
		return frame->payload_bytes <= PF_FRAME_TEXT_MAX;
	default:
		return false;
	}
}

int pf_frame_check(const struct pf_frame *frame, struct pf_error *err)
{
	if (frame->magic != PF_FRAME_MAGIC || frame->head_sum != head_sum(frame))
		return pf_fail(err, -EPROTO, "the peer's frame is damaged");
	if (frame->flags & ~(unsigned)PF_FRAME_FLAGS ||
	    (frame->type != PF_FRAME_FILE && frame->name_bytes != 0) || !sound(frame))
		return pf_fail(err, -EPROTO, "the peer's frame of type %u has impossible values",
			       frame->type);
	return 0;
}
