/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving side's state: who is expected, who is connected. */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "error.h"
#include "podferry/stream.h"
#include "store.h"
#include "stream_channel.h"

struct expectation {
	struct expectation *next;
	uint8_t token[PF_STREAM_TOKEN_BYTES];
	char *peer_name;
	struct pf_store *store;
	uint64_t session; /* 0: none has come */
	uint32_t lanes;
	uint64_t flushed[PF_STREAM_LANES_MAX];
	bool lane_taken[PF_STREAM_LANES_MAX];
	unsigned connections;
};

/* A connection, and its thread's memory. */
struct connection {
	struct connection *next;
	struct pf_receiver *receiver;
	struct pf_channel channel;
	struct expectation *expected; /* NULL: it has not said hello */
	uint64_t session;
	uint32_t lane;
	unsigned char *payload, *packed;
};

struct pf_receiver {
	int listener, bell;
	SSL_CTX *ctx;
	uint32_t timeout_ms;
	pthread_t acceptor;
	bool accepting;
	pthread_mutex_t lock; /* of all that follows, and of every expectation */
	pthread_cond_t changed;
	bool closing;
	struct expectation *expectations;
	struct connection *connections;
	unsigned connection_count;
	char trouble[PF_ERROR_MESSAGE_BYTES];
};

/* The life of one connection, in a thread of its own, up to its end. */
void connection_serve(struct connection *connection);
/* Takes the hello's token for this connection. */
int receiver_admit(struct pf_receiver *receiver, struct connection *connection,
		   const struct pf_hello *hello, struct pf_error *err);
/* Notes that the connection's lane has come so far; gives whether all have. */
bool receiver_flushed(struct pf_receiver *receiver, struct connection *connection, uint64_t number);
