// SPDX-License-Identifier: Apache-2.0
/* Owns the far end of CRIU's page-server protocol (criu/page-xfer.c of 4.1.1 and 4.2): composes the
 * image files that CRIU's own server would write, and sends them to the target as they grow. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cleanup.h"
#include "criu_pagemap.h"
#include "stream_sender.h"

#define COMMAND_BITS  16
#define TYPE_PID      1u
#define TYPE_SHMEM    2u
#define NARROW_BYTES  24u /* up to CRIU 4.1.1, whose count of pages has 32 bits */
#define WIDE_BYTES    32u
#define LOOK_UP_MS    200 /* how often a cancel is looked for */
#define MAX_PAGES     ((uint64_t)1 << 36)
#define ENTRY_BYTES   48u /* more than any entry takes */
#define PAGEMAP_BYTES (64u << 20)

enum command {
	ADD = 1,
	HOLE = 2,
	OPEN = 3,
	OPEN2 = 4,
	PARENT = 5,
	ADD_F = 6,
	CLOSE = 0x1023,
	FORCE_CLOSE = 0x1024,
};

struct request {
	uint32_t command, flags;
	uint64_t pages, vaddr, target;
};

struct server {
	struct pf_sender *sender;
	int socket;
	unsigned header_bytes; /* 0: nothing has come yet */
	char pagemap_name[64], pages_name[32];
	unsigned char *pagemap;
	size_t used, room;
	uint64_t target, offset, total;
	uint32_t pages_id;
	unsigned char *buffer;
};

/* 1, or 0 at the end of the connection before the first byte. */
static int receive(struct server *server, void *data, size_t bytes, struct pf_error *err)
{
	struct pollfd poller = {.fd = server->socket, .events = POLLIN};

	for (size_t got = 0; got < bytes;) {
		int ready = poll(&poller, 1, LOOK_UP_MS);
		ssize_t more;

		if (server->sender->cancelled)
			return pf_fail(err, -ECANCELED, "the stream was cancelled");
		if (ready <= 0)
			continue;
		more = recv(server->socket, (char *)data + got, bytes - got, 0);
		if (more < 0 && errno != EINTR)
			return pf_fail_errno(err, "cannot read from CRIU");
		if (more == 0 && got == 0)
			return 0;
		if (more == 0)
			return pf_fail(err, -ECONNRESET, "CRIU has ended in a message");
		got += more > 0 ? (size_t)more : 0;
	}
	return 1;
}

static int answer(const struct server *server, const void *data, size_t bytes, struct pf_error *err)
{
	if (send(server->socket, data, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
		return pf_fail_errno(err, "cannot answer CRIU");
	return 0;
}

/* The first request names a target and no pages. In the short form the target comes third of
 * three 8-byte words; in the long form that word is the address, which is 0. */
static int receive_first(struct server *server, unsigned char *raw, struct pf_error *err)
{
	uint64_t third;
	int code = receive(server, raw, NARROW_BYTES, err);

	if (code <= 0)
		return code;
	memcpy(&third, raw + 16, sizeof(third));
	server->header_bytes = third ? NARROW_BYTES : WIDE_BYTES;
	return third ? 1 : receive(server, raw + NARROW_BYTES, WIDE_BYTES - NARROW_BYTES, err);
}

static int receive_request(struct server *server, struct request *request, struct pf_error *err)
{
	unsigned char raw[WIDE_BYTES];
	uint32_t word, narrow;
	int code = server->header_bytes ? receive(server, raw, server->header_bytes, err)
					: receive_first(server, raw, err);

	if (code <= 0)
		return code;
	memcpy(&word, raw, sizeof(word));
	request->command = word & ((1u << COMMAND_BITS) - 1);
	request->flags = word >> COMMAND_BITS;
	if (server->header_bytes == NARROW_BYTES) {
		memcpy(&narrow, raw + 4, sizeof(narrow));
		request->pages = narrow;
		memcpy(&request->vaddr, raw + 8, sizeof(request->vaddr));
		memcpy(&request->target, raw + 16, sizeof(request->target));
	} else {
		memcpy(&request->pages, raw + 8, sizeof(request->pages));
		memcpy(&request->vaddr, raw + 16, sizeof(request->vaddr));
		memcpy(&request->target, raw + 24, sizeof(request->target));
	}
	return 1;
}

/* ---- image files */

static void put(struct server *server, const void *data, size_t bytes)
{
	memcpy(server->pagemap + server->used, data, bytes);
	server->used += bytes;
}

static void put_number(unsigned char **at, unsigned field, uint64_t value)
{
	*(*at)++ = (unsigned char)(field << 3);
	for (; value > 0x7f; value >>= 7)
		*(*at)++ = (unsigned char)(value | 0x80);
	*(*at)++ = (unsigned char)value;
}

static void put_message(struct server *server, const unsigned char *message, size_t bytes)
{
	uint32_t length = (uint32_t)bytes;

	put(server, &length, sizeof(length));
	put(server, message, bytes);
}

static int make_room(struct server *server, struct pf_error *err)
{
	size_t room = server->room ? server->room * 2 : 4096;
	unsigned char *grown;

	if (server->room - server->used >= ENTRY_BYTES)
		return 0;
	grown = room > PAGEMAP_BYTES ? NULL : realloc(server->pagemap, room);
	if (!grown)
		return pf_fail(err, -ENOMEM, "CRIU's pagemap is too large");
	server->pagemap = grown;
	server->room = room;
	return 0;
}

static int put_entry(struct server *server, const struct request *request, struct pf_error *err)
{
	unsigned char message[ENTRY_BYTES], *end = message;
	int code = make_room(server, err);

	if (code < 0)
		return code;
	put_number(&end, 1, request->vaddr);
	if (request->pages <= UINT32_MAX)
		put_number(&end, 2, request->pages);
	else
		put_number(&end, 2, 0);
	put_number(&end, 4, request->flags);
	put_number(&end, 5, request->pages);
	put_message(server, message, (size_t)(end - message));
	return 0;
}

static int close_target(struct server *server, struct pf_error *err)
{
	int code;

	if (!server->target)
		return 0;
	code = pf_sender_send_part(server->sender, server->pagemap_name, server->used, 0,
				   server->pagemap, server->used, err);
	server->total += server->used;
	server->used = 0;
	server->target = 0;
	return code;
}

static int open_target(struct server *server, uint64_t target, struct pf_error *err)
{
	static const uint32_t magic[2] = {PF_PAGEMAP_COMMON_MAGIC, PF_PAGEMAP_MAGIC};
	unsigned char message[16], *end = message;
	unsigned long long id = target >> 8;
	int code = close_target(server, err);

	if (code == 0)
		code = make_room(server, err);
	if (code < 0)
		return code;
	switch (target & 0xff) {
	case TYPE_PID:
		snprintf(server->pagemap_name, sizeof(server->pagemap_name), "pagemap-%llu.img",
			 id);
		break;
	case TYPE_SHMEM:
		snprintf(server->pagemap_name, sizeof(server->pagemap_name),
			 "pagemap-shmem-%llu.img", id);
		break;
	default:
		return pf_fail(err, -EPROTO, "CRIU sends pages of an unknown kind: %llu",
			       (unsigned long long)target & 0xff);
	}
	snprintf(server->pages_name, sizeof(server->pages_name), "pages-%u.img",
		 ++server->pages_id);
	server->target = target;
	server->offset = 0;
	put(server, magic, sizeof(magic));
	put_number(&end, 1, server->pages_id);
	put_message(server, message, (size_t)(end - message));
	/* The file is there also if no page follows. */
	return pf_sender_send_part(server->sender, server->pages_name, PF_STREAM_GROWING, 0, "", 0,
				   err);
}

static int take_pages(struct server *server, uint64_t pages, struct pf_error *err)
{
	uint64_t left = pages * PF_PAGE_BYTES;

	while (left > 0) {
		size_t piece = left < PF_FRAME_FILE_MAX ? left : PF_FRAME_FILE_MAX;
		int code = receive(server, server->buffer, piece, err);

		if (code == 0)
			return pf_fail(err, -ECONNRESET, "CRIU has ended before its pages");
		if (code < 0)
			return code;
		code = pf_sender_send_part(server->sender, server->pages_name, PF_STREAM_GROWING,
					   server->offset, server->buffer, piece, err);
		if (code < 0)
			return code;
		server->offset += piece;
		server->total += piece;
		left -= piece;
	}
	return 0;
}

static int add(struct server *server, struct request *request, struct pf_error *err)
{
	int code = 0;

	if (request->command == ADD)
		request->flags = PF_PAGEMAP_PRESENT;
	if (request->command == HOLE || request->flags & PF_PAGEMAP_IN_PARENT)
		return pf_fail(err, -EPROTO, "CRIU refers to a parent image, and there is none");
	if (request->pages == 0 || request->pages > MAX_PAGES || request->vaddr % PF_PAGE_BYTES)
		return pf_fail(err, -EPROTO, "CRIU sends %llu pages at %#llx",
			       (unsigned long long)request->pages,
			       (unsigned long long)request->vaddr);
	if (request->target != server->target)
		code = open_target(server, request->target, err);
	if (code == 0)
		code = put_entry(server, request, err);
	if (code == 0 && request->flags & PF_PAGEMAP_PRESENT)
		code = take_pages(server, request->pages, err);
	return code;
}

/* 1: go on; 0: CRIU is done. */
static int serve(struct server *server, struct request *request, struct pf_error *err)
{
	static const int32_t none = 0;
	int code;

	switch (request->command) {
	case OPEN:
	case OPEN2:
		code = open_target(server, request->target, err);
		if (code == 0 && request->command == OPEN2)
			code = answer(server, &none, 1, err);
		return code < 0 ? code : 1;
	case PARENT:
		code = answer(server, &none, sizeof(none), err);
		return code < 0 ? code : 1;
	case ADD:
	case ADD_F:
	case HOLE:
		code = add(server, request, err);
		return code < 0 ? code : 1;
	case CLOSE:
	case FORCE_CLOSE:
		code = close_target(server, err);
		return code < 0 ? code : answer(server, &none, sizeof(none), err);
	default:
		return pf_fail(err, -EPROTO, "CRIU sends an unknown command: %u", request->command);
	}
}

int pf_page_server_run(struct pf_sender *sender, int socket, uint64_t *image_bytes,
		       struct pf_error *err)
{
	struct server server = {.sender = sender, .socket = socket};
	struct request request = {0};
	int code;

	server.buffer = malloc(PF_FRAME_FILE_MAX);
	if (!server.buffer)
		return pf_fail(err, -ENOMEM, "no memory for CRIU's pages");
	do {
		code = receive_request(&server, &request, err);
		if (code == 0)
			code = pf_fail(err, -ECONNRESET, "CRIU has ended without saying so");
		if (code > 0)
			code = serve(&server, &request, err);
	} while (code > 0);
	*image_bytes = server.total;
	free(server.buffer);
	free(server.pagemap);
	return code;
}
