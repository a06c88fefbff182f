// SPDX-License-Identifier: Apache-2.0
/* Owns the sender's life and its calls for pages; stream_lane.c does the work. */
#include "stream_sender.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void *run_lane(void *argument)
{
	struct lane *lane = argument;
	struct pf_sender *sender = lane->sender;
	uint64_t seen = 0;

	pthread_mutex_lock(&sender->work);
	for (;;) {
		int host_pid, image_pid;

		while (!sender->ending && sender->generation == seen)
			pthread_cond_wait(&sender->told, &sender->work);
		if (sender->ending)
			break;
		seen = sender->generation;
		host_pid = sender->host_pid;
		image_pid = sender->image_pid;
		pthread_mutex_unlock(&sender->work);
		lane->code = lane_work(lane, host_pid, image_pid, &lane->err);
		pthread_mutex_lock(&sender->work);
		if (--sender->at_work == 0)
			pthread_cond_broadcast(&sender->done);
	}
	pthread_mutex_unlock(&sender->work);
	return NULL;
}

static bool copy_options(struct pf_sender *sender, const struct pf_sender_options *options)
{
	sender->address = strdup(options->address);
	sender->peer_name = strdup(options->peer_name);
	sender->certificate = strdup(options->tls.certificate);
	sender->key = strdup(options->tls.key);
	sender->authority = strdup(options->tls.authority);
	sender->port = options->port;
	sender->lane_count = options->lanes;
	sender->timeout_ms = options->timeout_ms;
	memcpy(sender->token, options->token, sizeof(sender->token));
	return sender->address && sender->peer_name && sender->certificate && sender->key &&
	       sender->authority;
}

static int start_lanes(struct pf_sender *sender, struct pf_error *err)
{
	for (uint32_t at = 0; at < sender->lane_count; at++) {
		struct lane *lane = &sender->lanes[at];
		int code = lane_open(lane, sender, at, err);

		if (code < 0)
			return code;
		code = pthread_create(&lane->thread, NULL, run_lane, lane);
		if (code != 0)
			return pf_fail(err, -code, "cannot start a lane: %s", strerror(code));
		lane->started = true;
	}
	return 0;
}

int pf_sender_open(struct pf_sender **out, const struct pf_sender_options *options,
		   struct pf_error *err)
{
	struct pf_sender *sender;
	int code;

	if (options->lanes == 0 || options->lanes > PF_STREAM_LANES_MAX || !options->timeout_ms)
		return pf_fail(err, -EINVAL, "a stream has 1 to %d lanes, and a timeout",
			       PF_STREAM_LANES_MAX);
	sender = calloc(1, sizeof(*sender));
	if (!sender)
		return pf_fail(err, -ENOMEM, "no memory for a stream");
	pf_table_init(&sender->table);
	pthread_mutex_init(&sender->use, NULL);
	pthread_mutex_init(&sender->work, NULL);
	pthread_cond_init(&sender->told, NULL);
	pthread_cond_init(&sender->done, NULL);
	for (uint32_t at = 0; at < PF_STREAM_LANES_MAX; at++)
		pf_channel_init(&sender->lanes[at].channel, options->timeout_ms);
	code = copy_options(sender, options) ? start_lanes(sender, err)
					     : pf_fail(err, -ENOMEM, "no memory for a stream");
	if (code < 0) {
		pf_sender_close(sender);
		return code;
	}
	*out = sender;
	return 0;
}

void pf_sender_close(struct pf_sender *sender)
{
	if (!sender)
		return;
	pthread_mutex_lock(&sender->work);
	sender->ending = true;
	pthread_cond_broadcast(&sender->told);
	pthread_mutex_unlock(&sender->work);
	for (uint32_t at = 0; at < PF_STREAM_LANES_MAX; at++) {
		if (sender->lanes[at].started)
			pthread_join(sender->lanes[at].thread, NULL);
		lane_close(&sender->lanes[at]);
	}
	pf_table_free(&sender->table);
	pthread_mutex_destroy(&sender->use);
	pthread_mutex_destroy(&sender->work);
	pthread_cond_destroy(&sender->told);
	pthread_cond_destroy(&sender->done);
	free(sender->address);
	free(sender->peer_name);
	free(sender->certificate);
	free(sender->key);
	free(sender->authority);
	free(sender);
}

void pf_sender_cancel(struct pf_sender *sender)
{
	sender->cancelled = true;
	for (uint32_t at = 0; at < sender->lane_count; at++)
		pf_channel_cut(&sender->lanes[at].channel);
}

int sender_begin(struct pf_sender *sender, struct pf_error *err)
{
	pthread_mutex_lock(&sender->use);
	if (sender->cancelled || !sender->connected) {
		pthread_mutex_unlock(&sender->use);
		return sender->cancelled
			       ? pf_fail(err, -ECANCELED, "the stream was cancelled")
			       : pf_fail(err, -ENOTCONN, "the stream is broken: connect it again");
	}
	return 0;
}

int sender_end(struct pf_sender *sender, int code)
{
	/* What is left of a frame makes a connection useless; a process that is gone does not. */
	if (code < 0 && code != -ESRCH && code != -EINVAL && code != -ENOMEM)
		sender->connected = false;
	pthread_mutex_unlock(&sender->use);
	return code;
}

/* ---- pages */

static uint64_t bits(uint64_t from, uint64_t count)
{
	return (count >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << count) - 1) << from;
}

static int share_out(struct pf_sender *sender, const struct pf_run *run, struct pf_error *err)
{
	uint64_t page = run->vaddr / PF_PAGE_BYTES, left = run->pages;

	if (run->vaddr % PF_PAGE_BYTES ||
	    run->vaddr + (uint64_t)run->pages * PF_PAGE_BYTES > PF_VADDR_END)
		return pf_fail(err, -EINVAL, "no pages of a process: %u at %#llx", run->pages,
			       (unsigned long long)run->vaddr);
	while (left > 0) {
		uint64_t from = page % PF_BLOCK_PAGES, block = page / PF_BLOCK_PAGES;
		uint64_t here = PF_BLOCK_PAGES - from < left ? PF_BLOCK_PAGES - from : left;
		struct lane_item item = {.block = block * PF_BLOCK_BYTES};
		int code;

		if (run->flags & PF_RUN_ZERO)
			item.zero = bits(from, here);
		else
			item.wanted = bits(from, here);
		code = lane_add(&sender->lanes[block % sender->lane_count], item, err);

		if (code < 0)
			return code;
		page += here;
		left -= here;
	}
	return 0;
}

static int let_work(struct pf_sender *sender, int host_pid, int image_pid, struct pf_error *err)
{
	pthread_mutex_lock(&sender->work);
	sender->host_pid = host_pid;
	sender->image_pid = image_pid;
	sender->at_work = sender->lane_count;
	sender->generation++;
	pthread_cond_broadcast(&sender->told);
	while (sender->at_work > 0)
		pthread_cond_wait(&sender->done, &sender->work);
	pthread_mutex_unlock(&sender->work);
	/* A broken connection counts more than a process that is gone. */
	for (int gone = 0; gone < 2; gone++)
		for (uint32_t at = 0; at < sender->lane_count; at++) {
			const struct lane *lane = &sender->lanes[at];

			if (lane->code < 0 && (gone || lane->code != -ESRCH))
				return pf_fail(err, lane->code, "%s", lane->err.message);
		}
	return 0;
}

int pf_sender_send_runs(struct pf_sender *sender, int host_pid, int image_pid,
			const struct pf_run *runs, size_t count, struct pf_error *err)
{
	int code = sender_begin(sender, err);

	if (code < 0)
		return code;
	if (host_pid <= 0 || image_pid <= 0)
		code = pf_fail(err, -EINVAL, "no process: %d, %d", host_pid, image_pid);
	for (uint32_t at = 0; at < sender->lane_count; at++)
		sender->lanes[at].count = 0;
	for (size_t at = 0; code == 0 && at < count; at++)
		code = share_out(sender, &runs[at], err);
	return sender_end(sender, code < 0 ? code : let_work(sender, host_pid, image_pid, err));
}

/* ---- confirmation */

static int send_flush(struct pf_sender *sender, struct lane *lane, struct pf_error *err)
{
	struct pf_frame frame = {.type = PF_FRAME_FLUSH,
				 .payload_bytes = sizeof(sender->table.counts),
				 .place = sender->flushes,
				 .round = sender->round};
	int code = pf_channel_send(&lane->channel, &frame, &sender->table.counts, err);

	return code < 0 ? lane_listen(lane, code, err) : 0;
}

static int take_ack(struct pf_sender *sender, struct lane *lane, struct pf_store_counts *out,
		    struct pf_error *err)
{
	unsigned char payload[PF_FRAME_TEXT_MAX];
	struct pf_frame frame;
	int code = pf_channel_receive(&lane->channel, &frame, err);

	if (code == 0 && frame.type != PF_FRAME_ACK && frame.type != PF_FRAME_ERROR)
		code = pf_fail(err, -EPROTO, "the peer does not confirm");
	if (code == 0)
		code = pf_channel_payload(&lane->channel, &frame, payload, err);
	if (code < 0)
		return sender->cancelled ? pf_fail(err, -ECANCELED, "the stream was cancelled")
					 : code;
	if (frame.type == PF_FRAME_ERROR)
		return pf_fail(err, -EREMOTEIO, "the peer: %.*s", (int)frame.payload_bytes,
			       (const char *)payload);
	if (frame.place != sender->flushes)
		return pf_fail(err, -EPROTO, "the peer confirms something else");
	if (frame.flags & PF_FRAME_ALL_LANES)
		memcpy(out, payload, sizeof(*out));
	return 0;
}

int sender_flush(struct pf_sender *sender, struct pf_store_counts *out, struct pf_error *err)
{
	const struct pf_store_counts *ours = &sender->table.counts;
	int code = 0;

	*out = (struct pf_store_counts){0};
	sender->flushes++;
	for (uint32_t at = 0; code == 0 && at < sender->lane_count; at++)
		code = send_flush(sender, &sender->lanes[at], err);
	for (uint32_t at = 0; code == 0 && at < sender->lane_count; at++)
		code = take_ack(sender, &sender->lanes[at], out, err);
	if (code == 0 && memcmp(out, ours, sizeof(*out)) != 0)
		code = pf_fail(err, -EBADMSG,
			       "the peer has %llu pages, %llu zero pages and digest %llx, not "
			       "%llu, %llu and %llx",
			       (unsigned long long)out->pages, (unsigned long long)out->zero_pages,
			       (unsigned long long)out->digest, (unsigned long long)ours->pages,
			       (unsigned long long)ours->zero_pages,
			       (unsigned long long)ours->digest);
	sender->round++;
	return code;
}

int pf_sender_flush(struct pf_sender *sender, struct pf_store_counts *out, struct pf_error *err)
{
	int code = sender_begin(sender, err);

	return code < 0 ? code : sender_end(sender, sender_flush(sender, out, err));
}

int pf_sender_forget_process(struct pf_sender *sender, int image_pid, struct pf_error *err)
{
	struct pf_frame frame = {.type = PF_FRAME_FORGET, .pid = image_pid};
	struct pf_store_counts counts;
	int code = sender_begin(sender, err);

	if (code < 0)
		return code;
	if (image_pid <= 0)
		return sender_end(sender, pf_fail(err, -EINVAL, "no process: %d", image_pid));
	/* Between two confirmations: nothing of before comes after it, nothing of after before. */
	code = sender_flush(sender, &counts, err);
	if (code == 0) {
		pf_table_drop(&sender->table, image_pid);
		code = pf_channel_send(&sender->lanes[0].channel, &frame, NULL, err);
	}
	if (code == 0)
		code = sender_flush(sender, &counts, err);
	return sender_end(sender, code);
}

void pf_sender_read_progress(struct pf_sender *sender, struct pf_sender_progress *out)
{
	const struct figures *figures = &sender->figures;

	*out = (struct pf_sender_progress){
		.pages_read = figures->pages_read,
		.pages_sent = figures->pages_sent,
		.pages_zero = figures->pages_zero,
		.pages_unchanged = figures->pages_unchanged,
		.pages_gone = figures->pages_gone,
		.payload_bytes = figures->payload_bytes,
		.file_bytes = figures->file_bytes,
		.writing_ns = figures->writing_ns,
		.compressed_pages = figures->compressed_pages,
	};
}
