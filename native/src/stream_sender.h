/* SPDX-License-Identifier: Apache-2.0 */
/* The sending side's state: one thread and one connection for each lane. A block's pages always
 * take the same lane, so that an older copy cannot overtake a newer one. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "error.h"
#include "podferry/stream.h"
#include "store_table.h"
#include "stream_channel.h"
#include "stream_pace.h"
#include "stream_pages.h"

/* Pages of a block that a lane is to send. */
struct lane_item {
	uint64_t block;
	uint64_t wanted; /* to be read */
	uint64_t zero;   /* known to be zero */
};

struct lane {
	struct pf_sender *sender;
	uint32_t index;
	pthread_t thread;
	bool started;
	struct pf_channel channel;
	struct lane_item *items;
	size_t count, room;
	int code; /* of the last work */
	struct pf_error err;
	struct pf_pace pace;
	unsigned char *buffer, *packed;
	size_t waiting; /* bytes of small files' frames in `packed` */
};

/* Running totals, read by other threads at any time. */
struct figures {
	atomic_uint_fast64_t pages_read, pages_sent, pages_zero, pages_unchanged, pages_gone,
		payload_bytes, file_bytes, writing_ns, compressed_pages;
};

struct pf_sender {
	char *address, *peer_name, *certificate, *key, *authority;
	uint16_t port;
	uint8_t token[PF_STREAM_TOKEN_BYTES];
	uint32_t lane_count, timeout_ms;
	struct lane lanes[PF_STREAM_LANES_MAX];

	pthread_mutex_t use; /* one call at a time */
	bool connected;
	uint64_t session, flushes, seed;
	uint32_t round;
	struct pf_table table;
	struct figures figures;
	atomic_bool cancelled;

	pthread_mutex_t work; /* what the lanes are told */
	pthread_cond_t told, done;
	uint64_t generation;
	uint32_t at_work;
	int host_pid, image_pid;
	bool ending;
};

#define LANE_BATCH_PAGES  PF_BLOCK_PAGES
#define LANE_BUFFER_BYTES (LANE_BATCH_PAGES * (PF_PAGE_BYTES + sizeof(struct pf_frame)))

int lane_open(struct lane *lane, struct pf_sender *sender, uint32_t index, struct pf_error *err);
void lane_close(struct lane *lane);
int lane_add(struct lane *lane, struct lane_item item, struct pf_error *err);
/* Reads and sends its items; in the lane's thread. */
int lane_work(struct lane *lane, int host_pid, int image_pid, struct pf_error *err);
/* Fails if the peer has said that it gives up; FAILED: a write has failed, it may have said why. */
int lane_listen(struct lane *lane, int failed, struct pf_error *err);

/* Begins a call: -ECANCELED, -ENOTCONN. Holds the sender's `use` if it gives 0. */
int sender_begin(struct pf_sender *sender, struct pf_error *err);
/* Ends it; a failure of the connection ends that too. */
int sender_end(struct pf_sender *sender, int code);
int sender_flush(struct pf_sender *sender, struct pf_store_counts *out, struct pf_error *err);
