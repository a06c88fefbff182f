/* SPDX-License-Identifier: Apache-2.0 */
/* Page streams: memory and files of a container to the store of another node, over parallel
 * connections (lanes) of TLS 1.3 with certificates on both sides. docs/wire.md has the bytes.
 *
 * Errors that every call may give: -ECANCELED after a cancel, -ETIMEDOUT where the peer did nothing
 * for the stream's timeout, -ECONNRESET and -EPIPE for a broken connection, -EPROTO for a peer that
 * broke the protocol or TLS, -EREMOTEIO with the peer's own words. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "podferry/error.h"
#include "podferry/run.h"
#include "podferry/store.h"

#define PF_STREAM_TOKEN_BYTES 32

enum pf_stream_limits {
	PF_STREAM_LANES_MAX = 16,
	PF_STREAM_CONNECTIONS_MAX = 256,
};

/* PEM files. */
struct pf_stream_tls {
	const char *certificate;
	const char *key;
	const char *authority;
};

/* ---- the source */
struct pf_sender;

struct pf_sender_options {
	const char *address; /* numeric */
	uint16_t port;
	const char *peer_name; /* that the peer's certificate must bear */
	struct pf_stream_tls tls;
	uint8_t token[PF_STREAM_TOKEN_BYTES];
	uint32_t lanes;
	uint32_t timeout_ms;
};

struct pf_sender_progress {
	uint64_t pages_read;
	uint64_t pages_sent;
	uint64_t pages_zero;      /* told without bytes */
	uint64_t pages_unchanged; /* read, and not sent again */
	uint64_t pages_gone;      /* not there any more when they were to be read */
	uint64_t payload_bytes;   /* on the wire, before encryption */
	uint64_t file_bytes;
	uint64_t writing_ns; /* all lanes' time in the connection */
	uint64_t compressed_pages;
};

/* Connects every lane. The sender exists also after a failure, so that another thread may cancel
 * it meanwhile: open, then connect. */
int pf_sender_open(struct pf_sender **out, const struct pf_sender_options *options,
		   struct pf_error *err);
/* Connects, or connects again after a failure: the peer tells what it holds. What was sent since
 * the last flush must be sent again; what did arrive is not sent twice. PORT 0: as before. */
int pf_sender_connect(struct pf_sender *sender, const char *address, uint16_t port,
		      struct pf_error *err);

/* Reads the pages of process HOST_PID and sends those that the peer does not have as they are now,
 * as memory of IMAGE_PID. Returns when all have been read and written. -ESRCH: no such process. */
int pf_sender_send_runs(struct pf_sender *sender, int host_pid, int image_pid,
			const struct pf_run *runs, size_t count, struct pf_error *err);

/* Sends part of a file of the image. SIZE: of the whole file, or PF_STREAM_GROWING. */
#define PF_STREAM_GROWING UINT64_MAX
int pf_sender_send_part(struct pf_sender *sender, const char *name, uint64_t size, uint64_t offset,
			const void *data, size_t bytes, struct pf_error *err);

/* Sends every regular file of the directory; FILE_BYTES gets their size. */
int pf_sender_send_directory(struct pf_sender *sender, const char *path, uint64_t *file_bytes,
			     struct pf_error *err);

/* The process has ended or executed another program: the peer drops its memory. */
int pf_sender_forget_process(struct pf_sender *sender, int image_pid, struct pf_error *err);

/* Returns once the peer has everything; OUT is what it says it has. -EBADMSG: it has not what was
 * sent. A new round begins. */
int pf_sender_flush(struct pf_sender *sender, struct pf_store_counts *out, struct pf_error *err);

void pf_sender_read_progress(struct pf_sender *sender, struct pf_sender_progress *out);

/* From any thread: every call fails soon, now and later. */
void pf_sender_cancel(struct pf_sender *sender);

/* No call may be under way. NULL is allowed. */
void pf_sender_close(struct pf_sender *sender);

/* ---- the target */
struct pf_receiver;

/* Listens; PORT 0 lets the kernel choose, and gets its choice. */
int pf_receiver_start(struct pf_receiver **out, const char *address, uint16_t *port,
		      const struct pf_stream_tls *tls, uint32_t timeout_ms, struct pf_error *err);

/* From now on who shows TOKEN, and a certificate with PEER_NAME (NULL: any of the authority),
 * writes into STORE, which must live until the token is forgotten. -EEXIST: it is expected. */
int pf_receiver_expect(struct pf_receiver *receiver, const uint8_t token[PF_STREAM_TOKEN_BYTES],
		       const char *peer_name, struct pf_store *store, struct pf_error *err);

/* Ends the token's connections; when this returns nobody writes into its store. */
void pf_receiver_forget(struct pf_receiver *receiver, const uint8_t token[PF_STREAM_TOKEN_BYTES]);

/* Why the last connection that failed has failed; "" if none has. */
void pf_receiver_read_trouble(struct pf_receiver *receiver, char *out, size_t bytes);

/* Ends every connection and thread. NULL is allowed. */
void pf_receiver_close(struct pf_receiver *receiver);

/* ---- CRIU's page server */

/* Serves CRIU's page-server protocol on SOCKET, a connected stream socket, until CRIU ends it:
 * composes pagemap and pages files and sends them as parts of the image. IMAGE_BYTES gets what was
 * sent. */
int pf_page_server_run(struct pf_sender *sender, int socket, uint64_t *image_bytes,
		       struct pf_error *err);
