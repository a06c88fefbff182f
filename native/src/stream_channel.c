// SPDX-License-Identifier: Apache-2.0
/* Owns TLS and the socket under it. */
#include "stream_channel.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "error.h"

#define RECORD_BYTES     16384u       /* RFC 8446 section 5.1 */
#define READ_AHEAD_BYTES (128u << 10) /* several records with one system call */
#define SOCKET_BYTES     (4 << 20)
#define KEEPALIVE_IDLE_S 5
#define CIPHERS          "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"

/* ---- OpenSSL's way to the socket: no SIGPIPE, and records that wait for each other */

static int bio_write(BIO *bio, const char *data, int bytes)
{
	struct pf_channel *channel = BIO_get_data(bio);
	ssize_t sent;

	do
		sent = send(channel->fd, data, (size_t)bytes,
			    MSG_NOSIGNAL | (channel->more ? MSG_MORE : 0));
	while (sent < 0 && errno == EINTR);
	return (int)sent;
}

static int bio_read(BIO *bio, char *data, int bytes)
{
	struct pf_channel *channel = BIO_get_data(bio);
	ssize_t got;

	do
		got = recv(channel->fd, data, (size_t)bytes, 0);
	while (got < 0 && errno == EINTR);
	return (int)got;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
	(void)bio;
	(void)number;
	(void)pointer;
	return command == BIO_CTRL_FLUSH;
}

static BIO *make_bio(struct pf_channel *channel)
{
	static BIO_METHOD *method;
	static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
	BIO *bio;

	pthread_mutex_lock(&once);
	if (!method) {
		method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | 100, "podferry");
		BIO_meth_set_write(method, bio_write);
		BIO_meth_set_read(method, bio_read);
		BIO_meth_set_ctrl(method, bio_control);
	}
	pthread_mutex_unlock(&once);
	bio = BIO_new(method);
	BIO_set_data(bio, channel);
	BIO_set_init(bio, 1);
	return bio;
}

/* ---- errors */

static int tls_failure(struct pf_channel *channel, int result, const char *what,
		       struct pf_error *err)
{
	int kind = SSL_get_error(channel->ssl, result), number = errno;
	unsigned long reason = ERR_peek_last_error();
	long verified = SSL_get_verify_result(channel->ssl);

	ERR_clear_error();
	if (channel->cut)
		return pf_fail(err, -ECANCELED, "the stream was cancelled");
	if (kind == SSL_ERROR_SSL && verified != X509_V_OK)
		return pf_fail(err, -EKEYREJECTED, "cannot %s: the peer's certificate: %s", what,
			       X509_verify_cert_error_string(verified));
	if (kind == SSL_ERROR_SSL && ERR_GET_REASON(reason) != SSL_R_UNEXPECTED_EOF_WHILE_READING)
		return pf_fail(err, -EPROTO, "cannot %s: %s", what,
			       ERR_reason_error_string(reason));
	if (kind == SSL_ERROR_SYSCALL && result < 0 &&
	    (number == EAGAIN || number == EWOULDBLOCK || number == ETIMEDOUT))
		return pf_fail(err, -ETIMEDOUT, "cannot %s: the peer did nothing for %u ms", what,
			       channel->timeout_ms);
	if (kind == SSL_ERROR_SYSCALL && result < 0 && number != 0) {
		errno = number;
		return pf_fail_errno(err, "cannot %s", what);
	}
	return pf_fail(err, -ECONNRESET, "cannot %s: the peer has closed the connection", what);
}

static int context_failure(SSL_CTX *ctx, const char *what, const char *path, struct pf_error *err)
{
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());
	int code = pf_fail(err, -EKEYREJECTED, "cannot use the %s %s: %s", what, path,
			   reason ? reason : "it cannot be read");

	ERR_clear_error();
	SSL_CTX_free(ctx);
	return code;
}

SSL_CTX *pf_channel_context(const struct pf_stream_tls *tls, bool server, struct pf_error *err)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

	if (!ctx) {
		pf_fail(err, -ENOMEM, "cannot prepare TLS");
		return NULL;
	}
	SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	SSL_CTX_set_ciphersuites(ctx, CIPHERS);
	SSL_CTX_set_mode(ctx, SSL_MODE_AUTO_RETRY);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, READ_AHEAD_BYTES);
	/* No session is ever resumed, and a ticket would look like an answer. */
	SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	if (SSL_CTX_use_certificate_chain_file(ctx, tls->certificate) != 1)
		return context_failure(ctx, "certificate", tls->certificate, err), NULL;
	if (SSL_CTX_use_PrivateKey_file(ctx, tls->key, SSL_FILETYPE_PEM) != 1)
		return context_failure(ctx, "key", tls->key, err), NULL;
	if (SSL_CTX_load_verify_locations(ctx, tls->authority, NULL) != 1)
		return context_failure(ctx, "authority", tls->authority, err), NULL;
	return ctx;
}

/* ---- connections */

void pf_channel_init(struct pf_channel *channel, uint32_t timeout_ms)
{
	*channel = (struct pf_channel){.fd = -1, .timeout_ms = timeout_ms};
}

static void tune(const struct pf_channel *channel)
{
	uint32_t ms = channel->timeout_ms;
	struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	int one = 1, idle_s = KEEPALIVE_IDLE_S, bytes = SOCKET_BYTES, fd = channel->fd;

	/* Beyond the machine's limit; without the right to that, the kernel finds its own size. */
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static int wait_connected(struct pf_channel *channel, const char *name, struct pf_error *err)
{
	struct pollfd poller = {.fd = channel->fd, .events = POLLOUT};
	int failure = 0, count;
	socklen_t length = sizeof(failure);

	do
		count = poll(&poller, 1, (int)channel->timeout_ms);
	while (count < 0 && errno == EINTR);
	if (channel->cut)
		return pf_fail(err, -ECANCELED, "the stream was cancelled");
	if (count == 0)
		return pf_fail(err, -ETIMEDOUT, "%s does not answer", name);
	getsockopt(channel->fd, SOL_SOCKET, SO_ERROR, &failure, &length);
	errno = failure;
	return failure ? pf_fail_errno(err, "cannot connect to %s", name) : 0;
}

static int connect_socket(struct pf_channel *channel, const char *address, uint16_t port,
			  struct pf_error *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				 .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV},
			*found;
	char service[8], name[80];
	int code = 0;

	snprintf(service, sizeof(service), "%u", port);
	snprintf(name, sizeof(name), "%.64s port %u", address, port);
	if (getaddrinfo(address, service, &hints, &found) != 0)
		return pf_fail(err, -EINVAL, "%s is no address", name);
	channel->fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (channel->fd < 0)
		code = pf_fail_errno(err, "cannot make a socket");
	else if (connect(channel->fd, found->ai_addr, found->ai_addrlen) < 0 &&
		 errno != EINPROGRESS)
		code = pf_fail_errno(err, "cannot connect to %s", name);
	freeaddrinfo(found);
	return code < 0 ? code : wait_connected(channel, name, err);
}

static int start_tls(struct pf_channel *channel, SSL_CTX *ctx, struct pf_error *err)
{
	BIO *bio;

	channel->ssl = SSL_new(ctx);
	if (!channel->ssl)
		return pf_fail(err, -ENOMEM, "cannot prepare TLS");
	bio = make_bio(channel);
	SSL_set_bio(channel->ssl, bio, bio);
	return 0;
}

int pf_channel_connect(struct pf_channel *channel, const char *address, uint16_t port, SSL_CTX *ctx,
		       const char *peer_name, struct pf_error *err)
{
	static const int blocking = 0;
	int code = connect_socket(channel, address, port, err), result;

	if (code < 0)
		return code;
	if (ioctl(channel->fd, FIONBIO, &blocking) < 0)
		return pf_fail_errno(err, "cannot wait for a socket");
	tune(channel);
	code = start_tls(channel, ctx, err);
	if (code < 0)
		return code;
	SSL_set1_host(channel->ssl, peer_name);
	result = SSL_connect(channel->ssl);
	return result == 1 ? 0 : tls_failure(channel, result, "open the stream", err);
}

int pf_channel_accept(struct pf_channel *channel, int fd, SSL_CTX *ctx, struct pf_error *err)
{
	int code, result;

	channel->fd = fd;
	tune(channel);
	code = start_tls(channel, ctx, err);
	if (code < 0)
		return code;
	result = SSL_accept(channel->ssl);
	return result == 1 ? 0 : tls_failure(channel, result, "accept the stream", err);
}

bool pf_channel_peer_is(struct pf_channel *channel, const char *name)
{
	X509 *certificate = SSL_get1_peer_certificate(channel->ssl);
	bool is = certificate && X509_check_host(certificate, name, strlen(name), 0, NULL) == 1;

	X509_free(certificate);
	return is;
}

void pf_channel_cut(struct pf_channel *channel)
{
	int fd = channel->fd;

	channel->cut = true;
	if (fd >= 0)
		shutdown(fd, SHUT_RDWR);
}

void pf_channel_close(struct pf_channel *channel)
{
	SSL_free(channel->ssl);
	channel->ssl = NULL;
	if (channel->fd >= 0)
		close(channel->fd);
	channel->fd = -1;
}

/* ---- bytes */

int pf_channel_write(struct pf_channel *channel, const void *data, size_t bytes, bool more,
		     struct pf_error *err)
{
	const unsigned char *at = data;

	while (bytes > 0) {
		size_t piece = bytes < RECORD_BYTES ? bytes : RECORD_BYTES;
		int sent;

		channel->more = more || piece < bytes;
		errno = 0;
		sent = SSL_write(channel->ssl, at, (int)piece);
		if (sent <= 0)
			return tls_failure(channel, sent, "write to the stream", err);
		at += sent;
		bytes -= (size_t)sent;
	}
	return 0;
}

void pf_channel_push(const struct pf_channel *channel)
{
	int one = 1;

	/* Set once more, this option pushes what MSG_MORE has kept (tcp(7)). */
	setsockopt(channel->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

int pf_channel_read(struct pf_channel *channel, void *data, size_t bytes, struct pf_error *err)
{
	unsigned char *at = data;

	while (bytes > 0) {
		int got;

		errno = 0;
		got = SSL_read(channel->ssl, at, bytes > INT32_MAX ? INT32_MAX : (int)bytes);
		if (got <= 0)
			return tls_failure(channel, got, "read from the stream", err);
		at += got;
		bytes -= (size_t)got;
	}
	return 0;
}

bool pf_channel_readable(struct pf_channel *channel, int timeout_ms)
{
	struct pollfd poller = {.fd = channel->fd, .events = POLLIN};
	int count;

	if (SSL_has_pending(channel->ssl))
		return true;
	do
		count = poll(&poller, 1, timeout_ms);
	while (count < 0 && errno == EINTR);
	return count > 0;
}

/* ---- frames */

int pf_channel_send(struct pf_channel *channel, struct pf_frame *frame, const void *payload,
		    struct pf_error *err)
{
	unsigned char whole[sizeof(*frame) + PF_FRAME_TEXT_MAX];
	int code;

	pf_frame_seal(frame, pf_frame_sum(payload, frame->payload_bytes));
	if (frame->payload_bytes <= PF_FRAME_TEXT_MAX) {
		memcpy(whole, frame, sizeof(*frame));
		if (frame->payload_bytes)
			memcpy(whole + sizeof(*frame), payload, frame->payload_bytes);
		return pf_channel_write(channel, whole, sizeof(*frame) + frame->payload_bytes,
					false, err);
	}
	code = pf_channel_write(channel, frame, sizeof(*frame), true, err);
	return code < 0 ? code
			: pf_channel_write(channel, payload, frame->payload_bytes, false, err);
}

int pf_channel_receive(struct pf_channel *channel, struct pf_frame *frame, struct pf_error *err)
{
	int code = pf_channel_read(channel, frame, sizeof(*frame), err);

	return code < 0 ? code : pf_frame_check(frame, err);
}

int pf_channel_payload(struct pf_channel *channel, const struct pf_frame *frame, void *payload,
		       struct pf_error *err)
{
	int code = pf_channel_read(channel, payload, frame->payload_bytes, err);

	if (code == 0 && pf_frame_sum(payload, frame->payload_bytes) != frame->payload_sum)
		return pf_fail(err, -EPROTO, "the payload of the peer's frame is damaged");
	return code;
}
