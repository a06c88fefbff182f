// SPDX-License-Identifier: Apache-2.0
/* Owns the listener, the tokens that are expected, and the lives of connections. */
#include "stream_receiver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 64

/* ---- tokens; all with the receiver's lock */

static struct expectation *find(const struct pf_receiver *receiver, const uint8_t *token)
{
	for (struct expectation *at = receiver->expectations; at; at = at->next)
		if (CRYPTO_memcmp(at->token, token, PF_STREAM_TOKEN_BYTES) == 0)
			return at;
	return NULL;
}

/* Cuts the token's connections but those of session KEEP, and waits until they are gone. */
static void end_connections(struct pf_receiver *receiver, struct expectation *expected,
			    const struct connection *keep)
{
	for (;;) {
		unsigned left = 0;

		for (struct connection *at = receiver->connections; at; at = at->next)
			if (at->expected == expected && at != keep) {
				pf_channel_cut(&at->channel);
				left++;
			}
		if (left == 0)
			return;
		pthread_cond_wait(&receiver->changed, &receiver->lock);
	}
}

static int begin_session(struct pf_receiver *receiver, struct connection *connection,
			 struct expectation *expected, const struct pf_hello *hello,
			 struct pf_error *err)
{
	/* An earlier session of which only the sender knows that it is broken. */
	end_connections(receiver, expected, connection);
	/* Meanwhile it may have been forgotten. */
	if (find(receiver, hello->token) != expected)
		return pf_fail(err, -EACCES, "this stream is not expected");
	expected->session = hello->session;
	expected->lanes = hello->lanes;
	memset(expected->flushed, 0, sizeof(expected->flushed));
	memset(expected->lane_taken, 0, sizeof(expected->lane_taken));
	return 0;
}

static int admit(struct pf_receiver *receiver, struct connection *connection,
		 const struct pf_hello *hello, struct pf_error *err)
{
	struct expectation *expected = find(receiver, hello->token);
	int code = 0;

	if (!expected)
		return pf_fail(err, -EACCES, "this stream is not expected");
	if (expected->peer_name && !pf_channel_peer_is(&connection->channel, expected->peer_name))
		return pf_fail(err, -EACCES, "this stream is expected from somebody else");
	if (hello->lane == 0)
		code = begin_session(receiver, connection, expected, hello, err);
	if (code < 0)
		return code;
	if (hello->session != expected->session || hello->lanes != expected->lanes ||
	    expected->lane_taken[hello->lane])
		return pf_fail(err, -EPROTO, "this lane belongs to no stream");
	expected->lane_taken[hello->lane] = true;
	connection->expected = expected;
	connection->lane = hello->lane;
	return 0;
}

int receiver_admit(struct pf_receiver *receiver, struct connection *connection,
		   const struct pf_hello *hello, struct pf_error *err)
{
	int code;

	if (hello->version != PF_STREAM_VERSION)
		return pf_fail(err, -EPROTO, "the stream's version is %u, not %u", hello->version,
			       PF_STREAM_VERSION);
	if (hello->lanes == 0 || hello->lanes > PF_STREAM_LANES_MAX ||
	    hello->lane >= hello->lanes || hello->session == 0)
		return pf_fail(err, -EPROTO, "lane %u of %u is impossible", hello->lane,
			       hello->lanes);
	pthread_mutex_lock(&receiver->lock);
	code = admit(receiver, connection, hello, err);
	pthread_mutex_unlock(&receiver->lock);
	return code;
}

bool receiver_flushed(struct pf_receiver *receiver, struct connection *connection, uint64_t number)
{
	struct expectation *expected = connection->expected;
	bool all = true;

	pthread_mutex_lock(&receiver->lock);
	expected->flushed[connection->lane] = number;
	for (uint32_t at = 0; at < expected->lanes; at++)
		all = all && expected->flushed[at] >= number;
	pthread_mutex_unlock(&receiver->lock);
	return all;
}

int pf_receiver_expect(struct pf_receiver *receiver, const uint8_t token[PF_STREAM_TOKEN_BYTES],
		       const char *peer_name, struct pf_store *store, struct pf_error *err)
{
	struct expectation *fresh = calloc(1, sizeof(*fresh));
	int code = 0;

	if (!fresh)
		return pf_fail(err, -ENOMEM, "no memory to expect a stream");
	memcpy(fresh->token, token, PF_STREAM_TOKEN_BYTES);
	if (peer_name)
		fresh->peer_name = strdup(peer_name);
	pthread_mutex_lock(&receiver->lock);
	if (peer_name && !fresh->peer_name)
		code = pf_fail(err, -ENOMEM, "no memory to expect a stream");
	else if (find(receiver, token))
		code = pf_fail(err, -EEXIST, "this token is expected already");
	if (code == 0) {
		fresh->store = pf_store_hold(store);
		fresh->next = receiver->expectations;
		receiver->expectations = fresh;
	}
	pthread_mutex_unlock(&receiver->lock);
	if (code < 0) {
		free(fresh->peer_name);
		free(fresh);
	}
	return code;
}

/* With the lock. */
static void drop_expectation(struct pf_receiver *receiver, struct expectation *expected)
{
	struct expectation **link = &receiver->expectations;

	while (*link != expected)
		link = &(*link)->next;
	*link = expected->next;
	end_connections(receiver, expected, NULL);
	pf_store_release(expected->store);
	free(expected->peer_name);
	free(expected);
}

void pf_receiver_forget(struct pf_receiver *receiver, const uint8_t token[PF_STREAM_TOKEN_BYTES])
{
	struct expectation *expected;

	pthread_mutex_lock(&receiver->lock);
	expected = find(receiver, token);
	if (expected)
		drop_expectation(receiver, expected);
	pthread_mutex_unlock(&receiver->lock);
}

void pf_receiver_read_trouble(struct pf_receiver *receiver, char *out, size_t bytes)
{
	pthread_mutex_lock(&receiver->lock);
	snprintf(out, bytes, "%s", receiver->trouble);
	pthread_mutex_unlock(&receiver->lock);
}

/* ---- connections */

static void free_connection(struct connection *connection)
{
	pf_channel_close(&connection->channel);
	free(connection->payload);
	free(connection->packed);
	free(connection);
}

static void *run_connection(void *argument)
{
	struct connection *connection = argument, **link;
	struct pf_receiver *receiver = connection->receiver;

	connection_serve(connection);
	pthread_mutex_lock(&receiver->lock);
	for (link = &receiver->connections; *link != connection; link = &(*link)->next)
		;
	*link = connection->next;
	/* Closed under the lock: nobody cuts a descriptor that is another's by now. */
	free_connection(connection);
	receiver->connection_count--;
	pthread_cond_broadcast(&receiver->changed);
	pthread_mutex_unlock(&receiver->lock);
	return NULL;
}

static struct connection *make_connection(struct pf_receiver *receiver, int fd)
{
	struct connection *connection = calloc(1, sizeof(*connection));

	if (!connection)
		return NULL;
	pf_channel_init(&connection->channel, receiver->timeout_ms);
	connection->receiver = receiver;
	connection->payload = aligned_alloc(64, (PF_FRAME_PAYLOAD_MAX + 63) / 64 * 64);
	connection->packed = malloc(PF_FRAME_PAYLOAD_MAX);
	connection->channel.fd = fd;
	return connection;
}

/* Starts a thread for the connection, or closes it where there are too many. */
static void take_connection(struct pf_receiver *receiver, int fd)
{
	struct connection *connection = make_connection(receiver, fd);
	pthread_attr_t detached;
	pthread_t thread;
	int code = -1;

	if (!connection) {
		close(fd);
		return;
	}
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	pthread_mutex_lock(&receiver->lock);
	if (connection->payload && connection->packed && !receiver->closing &&
	    receiver->connection_count < PF_STREAM_CONNECTIONS_MAX)
		code = pthread_create(&thread, &detached, run_connection, connection);
	if (code == 0) {
		connection->next = receiver->connections;
		receiver->connections = connection;
		receiver->connection_count++;
	} else {
		free_connection(connection);
	}
	pthread_mutex_unlock(&receiver->lock);
	pthread_attr_destroy(&detached);
}

static void *run_acceptor(void *argument)
{
	struct pf_receiver *receiver = argument;
	struct pollfd pollers[2] = {{.fd = receiver->listener, .events = POLLIN},
				    {.fd = receiver->bell, .events = POLLIN}};

	for (;;) {
		int fd;

		if (poll(pollers, 2, -1) < 0)
			continue;
		if (pollers[1].revents)
			return NULL;
		fd = accept4(receiver->listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			take_connection(receiver, fd);
		else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
			poll(&pollers[1], 1, 100); /* others may close something meanwhile */
	}
}

/* ---- life */

static int listen_at(struct pf_receiver *receiver, const char *address, uint16_t *port,
		     struct pf_error *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				 .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE},
			*found;
	struct sockaddr_storage bound = {0};
	socklen_t length = sizeof(bound);
	char service[8];
	int one = 1, code = 0;

	snprintf(service, sizeof(service), "%u", *port);
	if (getaddrinfo(address, service, &hints, &found) != 0)
		return pf_fail(err, -EINVAL, "%s is no address", address);
	receiver->listener =
		socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (receiver->listener < 0)
		code = pf_fail_errno(err, "cannot make a socket");
	else if (setsockopt(receiver->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
		 bind(receiver->listener, found->ai_addr, found->ai_addrlen) < 0 ||
		 listen(receiver->listener, BACKLOG) < 0 ||
		 getsockname(receiver->listener, (struct sockaddr *)&bound, &length) < 0)
		code = pf_fail_errno(err, "cannot listen at %s port %u", address, *port);
	freeaddrinfo(found);
	/* The port lies at the same place for both families. */
	if (code == 0)
		*port = ntohs(((struct sockaddr_in *)&bound)->sin_port);
	return code;
}

static int start(struct pf_receiver *receiver, const char *address, uint16_t *port,
		 const struct pf_stream_tls *tls, struct pf_error *err)
{
	int code;

	receiver->bell = eventfd(0, EFD_CLOEXEC);
	if (receiver->bell < 0)
		return pf_fail_errno(err, "cannot wait for connections");
	receiver->ctx = pf_channel_context(tls, true, err);
	if (!receiver->ctx)
		return -EKEYREJECTED;
	code = listen_at(receiver, address, port, err);
	if (code < 0)
		return code;
	code = pthread_create(&receiver->acceptor, NULL, run_acceptor, receiver);
	if (code != 0)
		return pf_fail(err, -code, "cannot wait for connections: %s", strerror(code));
	receiver->accepting = true;
	return 0;
}

int pf_receiver_start(struct pf_receiver **out, const char *address, uint16_t *port,
		      const struct pf_stream_tls *tls, uint32_t timeout_ms, struct pf_error *err)
{
	struct pf_receiver *receiver = calloc(1, sizeof(*receiver));
	int code;

	if (!receiver)
		return pf_fail(err, -ENOMEM, "no memory for a receiver");
	receiver->listener = receiver->bell = -1;
	receiver->timeout_ms = timeout_ms;
	pthread_mutex_init(&receiver->lock, NULL);
	pthread_cond_init(&receiver->changed, NULL);
	code = start(receiver, address, port, tls, err);
	if (code < 0) {
		pf_receiver_close(receiver);
		return code;
	}
	*out = receiver;
	return 0;
}

void pf_receiver_close(struct pf_receiver *receiver)
{
	uint64_t one = 1;

	if (!receiver)
		return;
	pthread_mutex_lock(&receiver->lock);
	receiver->closing = true;
	pthread_mutex_unlock(&receiver->lock);
	if (receiver->accepting && write(receiver->bell, &one, sizeof(one)) == sizeof(one))
		pthread_join(receiver->acceptor, NULL);
	pthread_mutex_lock(&receiver->lock);
	while (receiver->connections) {
		for (struct connection *at = receiver->connections; at; at = at->next)
			pf_channel_cut(&at->channel);
		pthread_cond_wait(&receiver->changed, &receiver->lock);
	}
	while (receiver->expectations)
		drop_expectation(receiver, receiver->expectations);
	pthread_mutex_unlock(&receiver->lock);
	SSL_CTX_free(receiver->ctx);
	if (receiver->listener >= 0)
		close(receiver->listener);
	if (receiver->bell >= 0)
		close(receiver->bell);
	pthread_mutex_destroy(&receiver->lock);
	pthread_cond_destroy(&receiver->changed);
	free(receiver);
}
