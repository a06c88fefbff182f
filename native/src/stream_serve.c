// SPDX-License-Identifier: Apache-2.0
/* Owns what one connection of the receiver does: checks frames and hands them to the store. */
#include <errno.h>
#include <lz4.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "stream_receiver.h"

#define DRAIN_WAIT_MS   1000
#define DRAIN_MAX_BYTES (64u << 20)

/* Fills the connection's payload with whole pages, and HASHES; compares the sum. */
static int take_pages(struct connection *connection, const struct pf_frame *frame, uint64_t *hashes,
		      struct pf_error *err)
{
	unsigned pages = (unsigned)__builtin_popcountll(frame->data);
	int bytes = (int)(pages * PF_PAGE_BYTES);
	bool packed = frame->flags & PF_FRAME_LZ4;
	int code = pf_channel_read(&connection->channel,
				   packed ? connection->packed : connection->payload,
				   frame->payload_bytes, err);

	if (code < 0)
		return code;
	if (packed &&
	    LZ4_decompress_safe((const char *)connection->packed, (char *)connection->payload,
				(int)frame->payload_bytes, bytes) != bytes)
		return pf_fail(err, -EPROTO, "compressed pages are damaged");
	for (unsigned at = 0; at < pages; at++)
		hashes[at] = pf_page_hash(connection->expected->store->seed,
					  connection->payload + (size_t)at * PF_PAGE_BYTES);
	if (pf_frame_sum(hashes, pages * (uint32_t)sizeof(*hashes)) != frame->payload_sum)
		return pf_fail(err, -EPROTO, "pages are damaged");
	return 0;
}

static int serve_pages(struct connection *connection, const struct pf_frame *frame,
		       struct pf_error *err)
{
	uint64_t hashes[PF_BLOCK_PAGES];
	int code = take_pages(connection, frame, hashes, err);

	return code < 0 ? code
			: pf_store_put_pages(connection->expected->store, frame->pid, frame->place,
					     frame->data, frame->zero, frame->round,
					     connection->payload, hashes, err);
}

static int serve_file(struct connection *connection, const struct pf_frame *frame,
		      struct pf_error *err)
{
	uint64_t size = frame->flags & PF_FRAME_GROWING ? UINT64_MAX : frame->data;
	const char *name = (const char *)connection->payload;
	char terminated[PF_FRAME_NAME_MAX + 1] = "";
	int code = pf_channel_payload(&connection->channel, frame, connection->payload, err);

	if (code < 0)
		return code;
	if (!pf_frame_name_is_plain(name, frame->name_bytes))
		return pf_fail(err, -EPROTO, "a file has no plain name");
	memcpy(terminated, name, frame->name_bytes);
	return pf_store_put_part(connection->expected->store, terminated, size, frame->place,
				 connection->payload + frame->name_bytes,
				 frame->payload_bytes - frame->name_bytes, frame->payload_sum, err);
}

static int serve_flush(struct connection *connection, const struct pf_frame *frame,
		       struct pf_error *err)
{
	struct pf_frame answer = {.type = PF_FRAME_ACK,
				  .payload_bytes = sizeof(struct pf_store_counts),
				  .place = frame->place};
	struct pf_store_counts theirs, ours;
	int code = pf_channel_payload(&connection->channel, frame, &theirs, err);

	if (code < 0)
		return code;
	if (receiver_flushed(connection->receiver, connection, frame->place)) {
		answer.flags = PF_FRAME_ALL_LANES;
		/* If it does not agree the sender finds out, and the store cannot be sealed. */
		pf_store_agrees(connection->expected->store, &theirs, &ours);
	} else {
		pf_store_read_counts(connection->expected->store, &ours, NULL);
	}
	return pf_channel_send(&connection->channel, &answer, &ours, err);
}

static int tell_block(struct connection *connection, int pid, const struct pf_block *block,
		      uint64_t start, struct pf_error *err)
{
	struct pf_frame frame = {.type = PF_FRAME_BLOCK,
				 .pid = pid,
				 .place = start,
				 .data = block->data,
				 .zero = block->zero,
				 .round = block->round};
	uint64_t hashes[PF_BLOCK_PAGES];
	unsigned count = 0;

	for (uint64_t left = block->data; left; left &= left - 1)
		hashes[count++] = block->hash[__builtin_ctzll(left)];
	frame.payload_bytes = count * (uint32_t)sizeof(*hashes);
	return pf_channel_send(&connection->channel, &frame, hashes, err);
}

/* The lock is kept meanwhile: a session begins with this, nothing else is under way. */
static int tell_table(struct connection *connection, struct pf_error *err)
{
	struct pf_store *store = connection->expected->store;
	struct pf_table *table = &store->table;
	struct pf_frame frame = {.type = PF_FRAME_TABLE_END,
				 .payload_bytes = sizeof(struct pf_store_counts)};
	int code = 0;

	pthread_mutex_lock(&table->lock);
	for (size_t at = 0; code == 0 && at < table->count; at++) {
		const struct pf_process *process = table->processes[at];

		for (size_t region = 0; code == 0 && region < process->count; region++)
			for (unsigned index = 0; code == 0 && index < PF_REGION_BLOCKS; index++) {
				const struct pf_region *here = process->regions[region];

				if (here->blocks[index])
					code = tell_block(
						connection, process->pid, here->blocks[index],
						here->start + index * PF_BLOCK_BYTES, err);
			}
	}
	frame.round = store->round;
	if (code == 0)
		code = pf_channel_send(&connection->channel, &frame, &table->counts, err);
	pthread_mutex_unlock(&table->lock);
	return code;
}

static int serve_frame(struct connection *connection, const struct pf_frame *frame,
		       struct pf_error *err)
{
	switch (frame->type) {
	case PF_FRAME_PAGES:
		return serve_pages(connection, frame, err);
	case PF_FRAME_FILE:
		return serve_file(connection, frame, err);
	case PF_FRAME_FLUSH:
		return serve_flush(connection, frame, err);
	case PF_FRAME_FORGET:
		return pf_store_drop(connection->expected->store, frame->pid, err);
	case PF_FRAME_TABLE:
		return tell_table(connection, err);
	default:
		return pf_fail(err, -EPROTO, "a frame of type %u is not for the target",
			       frame->type);
	}
}

static int greet(struct connection *connection, struct pf_error *err)
{
	struct pf_frame frame;
	struct pf_hello hello;
	int code = pf_channel_receive(&connection->channel, &frame, err);

	if (code == 0 && frame.type != PF_FRAME_HELLO)
		code = pf_fail(err, -EPROTO, "a stream begins with a hello");
	if (code == 0)
		code = pf_channel_payload(&connection->channel, &frame, &hello, err);
	if (code == 0)
		code = receiver_admit(connection->receiver, connection, &hello, err);
	if (code < 0)
		return code;
	frame = (struct pf_frame){.type = PF_FRAME_WELCOME,
				  .place = connection->expected->store->seed};
	return pf_channel_send(&connection->channel, &frame, NULL, err);
}

/* Tells the peer why, and reads on for a while: a reset would overtake the words. */
static void say_why(struct connection *connection, const struct pf_error *why)
{
	struct pf_channel *channel = &connection->channel;
	struct pf_frame frame = {.type = PF_FRAME_ERROR};
	size_t bytes = strnlen(why->message, PF_FRAME_TEXT_MAX), drained = 0;

	frame.payload_bytes = (uint32_t)bytes;
	if (pf_channel_send(channel, &frame, why->message, NULL) < 0)
		return;
	shutdown(channel->fd, SHUT_WR);
	while (drained < DRAIN_MAX_BYTES && pf_channel_readable(channel, DRAIN_WAIT_MS)) {
		ssize_t got = recv(channel->fd, connection->packed, PF_FRAME_PAYLOAD_MAX, 0);

		if (got <= 0)
			break;
		drained += (size_t)got;
	}
}

static void note_trouble(struct connection *connection, const struct pf_error *err)
{
	struct pf_receiver *receiver = connection->receiver;

	pthread_mutex_lock(&receiver->lock);
	if (!connection->channel.cut)
		snprintf(receiver->trouble, sizeof(receiver->trouble), "%s", err->message);
	pthread_mutex_unlock(&receiver->lock);
}

void connection_serve(struct connection *connection)
{
	struct pf_channel *channel = &connection->channel;
	struct pf_error err = {0};
	struct pf_frame frame;
	int code = pf_channel_accept(channel, channel->fd, connection->receiver->ctx, &err);
	bool spoken = code == 0;

	if (code == 0)
		code = greet(connection, &err);
	while (code == 0) {
		/* Between rounds a sender may be silent for as long as it likes. */
		if (!pf_channel_readable(channel, -1))
			break;
		code = pf_channel_receive(channel, &frame, &err);
		/* The sender's end between two frames is no failure. */
		if (code == -ECONNRESET && connection->expected)
			return;
		if (code == 0)
			code = serve_frame(connection, &frame, &err);
	}
	if (code < 0)
		note_trouble(connection, &err);
	if (code < 0 && spoken && code != -ECONNRESET && code != -EPIPE && code != -ECANCELED)
		say_why(connection, &err);
}
