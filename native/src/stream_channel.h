/* SPDX-License-Identifier: Apache-2.0 */
/* One TLS 1.3 connection with bounded waits, used by one thread at a time; only pf_channel_cut is
 * for others. */
#pragma once

#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "podferry/stream.h"
#include "stream_frame.h"

struct pf_channel {
	_Atomic int fd; /* -1: none */
	SSL *ssl;
	uint32_t timeout_ms;
	bool more; /* what is written now is followed by more at once */
	atomic_bool cut;
};

SSL_CTX *pf_channel_context(const struct pf_stream_tls *tls, bool server, struct pf_error *err);

void pf_channel_init(struct pf_channel *channel, uint32_t timeout_ms);
int pf_channel_connect(struct pf_channel *channel, const char *address, uint16_t port, SSL_CTX *ctx,
		       const char *peer_name, struct pf_error *err);
/* Takes FD over, also if it fails. */
int pf_channel_accept(struct pf_channel *channel, int fd, SSL_CTX *ctx, struct pf_error *err);
/* Whether the peer's certificate bears the name. */
bool pf_channel_peer_is(struct pf_channel *channel, const char *name);

/* MORE: the next write follows at once, so nothing needs to be sent yet. */
int pf_channel_write(struct pf_channel *channel, const void *data, size_t bytes, bool more,
		     struct pf_error *err);
/* Sends what waited for more. */
void pf_channel_push(const struct pf_channel *channel);
int pf_channel_read(struct pf_channel *channel, void *data, size_t bytes, struct pf_error *err);
/* Whether something can be read, waiting up to TIMEOUT_MS (-1: until there is, or it is cut). */
bool pf_channel_readable(struct pf_channel *channel, int timeout_ms);

/* A whole frame; reads a checked head, whose payload, if any, is still to be read. */
int pf_channel_send(struct pf_channel *channel, struct pf_frame *frame, const void *payload,
		    struct pf_error *err);
int pf_channel_receive(struct pf_channel *channel, struct pf_frame *frame, struct pf_error *err);
/* Reads the payload of a frame that is no page, and compares its sum. */
int pf_channel_payload(struct pf_channel *channel, const struct pf_frame *frame, void *payload,
		       struct pf_error *err);

/* From any thread: ends what waits in the channel. */
void pf_channel_cut(struct pf_channel *channel);
void pf_channel_close(struct pf_channel *channel);
