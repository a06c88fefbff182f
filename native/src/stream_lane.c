// SPDX-License-Identifier: Apache-2.0
/* Owns what one lane does with its share of the pages: read, compare, compress, frame, write. */
#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stream_sender.h"

#define LAST_WORDS_MS 200

/* Frames that lie one behind the other in the buffer and are not written yet. */
struct pending {
	const unsigned char *start, *end;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int lane_open(struct lane *lane, struct pf_sender *sender, uint32_t index, struct pf_error *err)
{
	lane->sender = sender;
	lane->index = index;
	pf_channel_init(&lane->channel, sender->timeout_ms);
	/* Aligned as cache lines are: vector instructions look at the pages. */
	lane->buffer = aligned_alloc(64, LANE_BUFFER_BYTES);
	lane->packed = malloc(LANE_BUFFER_BYTES);
	return lane->buffer && lane->packed ? 0 : pf_fail(err, -ENOMEM, "no memory for a lane");
}

void lane_close(struct lane *lane)
{
	pf_channel_close(&lane->channel);
	free(lane->items);
	free(lane->buffer);
	free(lane->packed);
}

int lane_add(struct lane *lane, struct lane_item item, struct pf_error *err)
{
	struct lane_item *last = lane->count ? &lane->items[lane->count - 1] : NULL;

	if (last && last->block == item.block) {
		last->wanted |= item.wanted;
		last->zero = (last->zero | item.zero) & ~last->wanted;
		return 0;
	}
	if (lane->count == lane->room) {
		size_t room = lane->room ? lane->room * 2 : 256;
		struct lane_item *grown = reallocarray(lane->items, room, sizeof(*grown));

		if (!grown)
			return pf_fail(err, -ENOMEM, "cannot keep %zu pieces of work", room);
		lane->items = grown;
		lane->room = room;
	}
	lane->items[lane->count++] = item;
	return 0;
}

int lane_listen(struct lane *lane, int failed, struct pf_error *err)
{
	char text[PF_FRAME_TEXT_MAX + 1] = "";
	struct pf_frame frame;
	int code;

	if (lane->sender->cancelled)
		return pf_fail(err, -ECANCELED, "the stream was cancelled");
	if (!pf_channel_readable(&lane->channel, failed ? LAST_WORDS_MS : 0))
		return failed;
	code = pf_channel_receive(&lane->channel, &frame, failed ? NULL : err);
	if (code == 0 && frame.type != PF_FRAME_ERROR)
		code = pf_fail(err, -EPROTO, "the peer says something that it was not asked");
	if (code == 0)
		code = pf_channel_payload(&lane->channel, &frame, text, failed ? NULL : err);
	if (code == 0)
		return pf_fail(err, -EREMOTEIO, "the peer: %s", text);
	return failed ? failed : code;
}

static int write_out(struct lane *lane, const void *data, size_t bytes, struct pf_error *err)
{
	uint64_t begun = now_ns(), took;
	int code = pf_channel_write(&lane->channel, data, bytes, true, err);

	if (code < 0)
		return lane_listen(lane, code, err);
	took = now_ns() - begun;
	pf_pace_wrote(&lane->pace, bytes, took);
	lane->sender->figures.writing_ns += took;
	lane->sender->figures.payload_bytes += bytes;
	return 0;
}

static int write_pending(struct lane *lane, struct pending *pending, struct pf_error *err)
{
	size_t bytes = (size_t)(pending->end - pending->start);

	pending->start = pending->end;
	return bytes ? write_out(lane, pending->end - bytes, bytes, err) : 0;
}

/* The payload's size if it is compressed into the lane's second buffer; 0: it does not pay. */
static uint32_t pack(struct lane *lane, const unsigned char *payload, uint32_t bytes)
{
	bool probing = pf_pace_wants_probe(&lane->pace);
	uint32_t tried = bytes;
	uint64_t begun;
	int packed;

	if (bytes < PF_PACE_PROBE_BYTES)
		return 0;
	if (!pf_pace_pays(&lane->pace)) {
		if (!probing)
			return 0;
		tried = PF_PACE_PROBE_BYTES;
	}
	begun = now_ns();
	packed = LZ4_compress_default((const char *)payload, (char *)lane->packed, (int)tried,
				      (int)tried - 1);
	pf_pace_probed(&lane->pace, tried, packed > 0 ? (uint32_t)packed : tried, now_ns() - begun);
	return packed > 0 && tried == bytes && pf_pace_pays(&lane->pace) ? (uint32_t)packed : 0;
}

/* Sorts the block's pages out: moves those that go together and fills the frame and the hashes. */
static void choose(struct lane *lane, const struct pf_block *block, struct pf_page *pages,
		   uint64_t wanted, struct pf_frame *frame, unsigned char *payload,
		   uint64_t *hashes)
{
	struct figures *figures = &lane->sender->figures;
	uint32_t kept = 0;

	for (; wanted; wanted &= wanted - 1, pages++) {
		unsigned at = (unsigned)__builtin_ctzll(wanted);
		uint64_t bit = (uint64_t)1 << at, hash;

		if (pages->gone) {
			figures->pages_gone++;
			continue;
		}
		if (pf_page_is_zero(pages->at)) {
			if (block->zero & bit) {
				figures->pages_unchanged++;
				continue;
			}
			frame->zero |= bit;
			figures->pages_zero++;
			continue;
		}
		hash = pf_page_hash(lane->sender->seed, pages->at);
		if (block->data & bit && block->hash[at] == hash) {
			figures->pages_unchanged++;
			continue;
		}
		if (payload + (size_t)kept * PF_PAGE_BYTES != pages->at)
			memmove(payload + (size_t)kept * PF_PAGE_BYTES, pages->at, PF_PAGE_BYTES);
		hashes[kept++] = hash;
		frame->data |= bit;
	}
	frame->payload_bytes = kept * PF_PAGE_BYTES;
	figures->pages_sent += kept;
}

static int send_packed(struct lane *lane, struct pf_frame *frame, uint32_t packed,
		       const uint64_t *hashes, struct pf_error *err)
{
	uint32_t pages = frame->payload_bytes / PF_PAGE_BYTES;
	int code;

	frame->flags = PF_FRAME_LZ4;
	frame->payload_bytes = packed;
	pf_frame_seal(frame, pf_frame_sum(hashes, pages * (uint32_t)sizeof(*hashes)));
	code = write_out(lane, frame, sizeof(*frame), err);
	if (code == 0)
		code = write_out(lane, lane->packed, packed, err);
	lane->sender->figures.compressed_pages += pages;
	return code;
}

/* Sends what has changed of one block, whose frame lies before its pages in the buffer. */
static int send_block(struct lane *lane, int image_pid, const struct lane_item *item,
		      struct pf_page *pages, unsigned char *place, struct pending *pending,
		      struct pf_error *err)
{
	struct pf_sender *sender = lane->sender;
	struct pf_frame *frame = (struct pf_frame *)(void *)place;
	unsigned char *payload = place + sizeof(*frame);
	uint64_t hashes[PF_BLOCK_PAGES];
	struct pf_process *process;
	struct pf_block *block = NULL;
	uint32_t packed;
	int code;

	*frame = (struct pf_frame){.type = PF_FRAME_PAGES,
				   .pid = image_pid,
				   .place = item->block,
				   .round = sender->round};
	pthread_mutex_lock(&sender->table.lock);
	process = pf_table_process(&sender->table, image_pid, true);
	if (process)
		block = pf_process_block(&sender->table, process, item->block, true, NULL);
	pthread_mutex_unlock(&sender->table.lock);
	if (!block)
		return pf_fail(err, -ENOMEM, "cannot remember what was sent");
	choose(lane, block, pages, item->wanted, frame, payload, hashes);
	frame->zero |= item->zero & ~block->zero;
	sender->figures.pages_zero += (uint64_t)__builtin_popcountll(item->zero & ~block->zero);
	if (!(frame->data | frame->zero))
		return 0;
	packed = pack(lane, payload, frame->payload_bytes);
	if (packed || pending->end != place) {
		code = write_pending(lane, pending, err);
		if (code < 0)
			return code;
	}
	if (packed) {
		code = send_packed(lane, frame, packed, hashes, err);
		if (code < 0)
			return code;
	} else {
		uint32_t sum_bytes =
			frame->payload_bytes / PF_PAGE_BYTES * (uint32_t)sizeof(*hashes);

		pf_frame_seal(frame, pf_frame_sum(hashes, sum_bytes));
		if (pending->start == pending->end)
			pending->start = place;
		pending->end = payload + frame->payload_bytes;
	}
	pthread_mutex_lock(&sender->table.lock);
	pf_block_note(&sender->table, image_pid, block, item->block, frame->data, frame->zero,
		      hashes, sender->round);
	pthread_mutex_unlock(&sender->table.lock);
	return 0;
}

/* Lays the items' frames and pages out in the buffer, as many as go there. */
static size_t lay_out(struct lane *lane, size_t from, struct pf_page *pages, size_t *page_count)
{
	unsigned char *place = lane->buffer;
	size_t at = from;

	*page_count = 0;
	for (; at < lane->count; at++) {
		const struct lane_item *item = &lane->items[at];

		if (*page_count + (size_t)__builtin_popcountll(item->wanted) > LANE_BATCH_PAGES)
			break;
		place += sizeof(struct pf_frame);
		for (uint64_t left = item->wanted; left; left &= left - 1) {
			uint64_t page = (uint64_t)__builtin_ctzll(left);

			pages[(*page_count)++] = (struct pf_page){
				.vaddr = item->block + page * PF_PAGE_BYTES, .at = place};
			place += PF_PAGE_BYTES;
		}
	}
	return at;
}

static int send_batch(struct lane *lane, int image_pid, size_t from, size_t end,
		      struct pf_page *pages, struct pf_error *err)
{
	struct pending pending = {lane->buffer, lane->buffer};
	unsigned char *place = lane->buffer;
	int code = lane_listen(lane, 0, err);

	for (size_t at = from; code == 0 && at < end; at++) {
		const struct lane_item *item = &lane->items[at];
		size_t count = (size_t)__builtin_popcountll(item->wanted);

		code = send_block(lane, image_pid, item, pages, place, &pending, err);
		pages += count;
		place += sizeof(struct pf_frame) + count * PF_PAGE_BYTES;
	}
	return code < 0 ? code : write_pending(lane, &pending, err);
}

int lane_work(struct lane *lane, int host_pid, int image_pid, struct pf_error *err)
{
	struct pf_reader reader = {.pid = host_pid, .memory_fd = -1};
	struct pf_page pages[LANE_BATCH_PAGES];
	size_t at = 0, page_count;
	int code = 0;

	while (code == 0 && at < lane->count) {
		size_t end = lay_out(lane, at, pages, &page_count);

		code = pf_reader_read(&reader, pages, page_count, err);
		lane->sender->figures.pages_read += page_count;
		if (code == 0)
			code = send_batch(lane, image_pid, at, end, pages, err);
		at = end;
	}
	pf_reader_close(&reader);
	pf_channel_push(&lane->channel);
	return code;
}
