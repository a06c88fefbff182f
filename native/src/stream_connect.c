// SPDX-License-Identifier: Apache-2.0
/* Owns the opening of a stream at the source, and learning what the target has. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "stream_sender.h"

/* What a peer may answer: each of a frame's types has its own bounds. */
static int expect(struct lane *lane, struct pf_frame *frame, enum pf_frame_type type,
		  enum pf_frame_type other, struct pf_error *err)
{
	char text[PF_FRAME_TEXT_MAX + 1] = "";
	int code = pf_channel_receive(&lane->channel, frame, err);

	if (code < 0)
		return code;
	if (frame->type == PF_FRAME_ERROR) {
		code = pf_channel_payload(&lane->channel, frame, text, err);
		return code < 0 ? code : pf_fail(err, -EREMOTEIO, "the peer: %s", text);
	}
	if (frame->type != type && frame->type != other)
		return pf_fail(err, -EPROTO, "the peer answers with a frame of type %u",
			       frame->type);
	return 0;
}

static int say_hello(struct pf_sender *sender, struct lane *lane, struct pf_error *err)
{
	struct pf_hello hello = {.version = PF_STREAM_VERSION,
				 .lane = lane->index,
				 .lanes = sender->lane_count,
				 .session = sender->session};
	struct pf_frame frame = {.type = PF_FRAME_HELLO, .payload_bytes = sizeof(hello)};
	int code;

	memcpy(hello.token, sender->token, sizeof(hello.token));
	code = pf_channel_send(&lane->channel, &frame, &hello, err);
	if (code == 0)
		code = expect(lane, &frame, PF_FRAME_WELCOME, PF_FRAME_WELCOME, err);
	if (code == 0)
		sender->seed = frame.place;
	return code;
}

static int adopt_block(struct pf_sender *sender, struct lane *lane, const struct pf_frame *frame,
		       struct pf_error *err)
{
	uint64_t hashes[PF_BLOCK_PAGES];
	struct pf_process *process;
	struct pf_block *block = NULL;
	int code = pf_channel_payload(&lane->channel, frame, hashes, err);

	if (code < 0)
		return code;
	process = pf_table_process(&sender->table, frame->pid, true);
	if (process)
		block = pf_process_block(&sender->table, process, frame->place, true, NULL);
	if (!block)
		return pf_fail(err, -ENOMEM, "cannot remember what the peer has");
	pf_block_note(&sender->table, frame->pid, block, frame->place, frame->data, frame->zero,
		      hashes, frame->round);
	return 0;
}

/* What the peer holds becomes what was sent. */
static int adopt_table(struct pf_sender *sender, struct pf_error *err)
{
	struct pf_frame frame = {.type = PF_FRAME_TABLE};
	struct pf_store_counts theirs, *ours = &sender->table.counts;
	struct lane *lane = &sender->lanes[0];
	int code = pf_channel_send(&lane->channel, &frame, NULL, err);

	pf_table_clear(&sender->table);
	while (code == 0) {
		code = expect(lane, &frame, PF_FRAME_BLOCK, PF_FRAME_TABLE_END, err);
		if (code < 0 || frame.type == PF_FRAME_TABLE_END)
			break;
		code = adopt_block(sender, lane, &frame, err);
	}
	if (code == 0)
		code = pf_channel_payload(&lane->channel, &frame, &theirs, err);
	if (code < 0)
		return code;
	if (theirs.pages != ours->pages || theirs.zero_pages != ours->zero_pages)
		return pf_fail(err, -EBADMSG, "the peer tells other pages than it counts");
	/* A process without pages is told by no block. */
	*ours = theirs;
	sender->round = frame.round + 1;
	return 0;
}

static int connect_lane(struct pf_sender *sender, struct lane *lane, SSL_CTX *ctx,
			struct pf_error *err)
{
	int code;

	pf_channel_close(&lane->channel);
	pf_channel_init(&lane->channel, sender->timeout_ms);
	lane->pace = (struct pf_pace){0};
	/* A cancel that came between finds no socket to cut. */
	lane->channel.cut = sender->cancelled;
	code = pf_channel_connect(&lane->channel, sender->address, sender->port, ctx,
				  sender->peer_name, err);
	return code < 0 ? code : say_hello(sender, lane, err);
}

static int connect_all(struct pf_sender *sender, struct pf_error *err)
{
	const struct pf_stream_tls tls = {sender->certificate, sender->key, sender->authority};
	SSL_CTX *ctx = pf_channel_context(&tls, false, err);
	int code = 0;

	if (!ctx)
		return err ? err->code : -EKEYREJECTED;
	if (getrandom(&sender->session, sizeof(sender->session), 0) !=
	    (ssize_t)sizeof(sender->session))
		code = pf_fail_errno(err, "cannot name a session");
	/* The first lane ends an earlier session of the same token. */
	for (uint32_t at = 0; code == 0 && at < sender->lane_count; at++)
		code = connect_lane(sender, &sender->lanes[at], ctx, err);
	SSL_CTX_free(ctx);
	return code < 0 ? code : adopt_table(sender, err);
}

int pf_sender_connect(struct pf_sender *sender, const char *address, uint16_t port,
		      struct pf_error *err)
{
	struct pf_error local = {0};
	int code = 0;

	pthread_mutex_lock(&sender->use);
	sender->connected = false;
	if (port) {
		char *copy = strdup(address);

		if (copy) {
			free(sender->address);
			sender->address = copy;
			sender->port = port;
		} else {
			code = pf_fail(&local, -ENOMEM, "no memory for an address");
		}
	}
	if (code == 0)
		code = connect_all(sender, &local);
	if (sender->cancelled)
		code = pf_fail(&local, -ECANCELED, "the stream was cancelled");
	sender->connected = code == 0;
	pthread_mutex_unlock(&sender->use);
	return code < 0 ? pf_fail(err, code, "%s", local.message) : 0;
}
