// SPDX-License-Identifier: Apache-2.0
/* A receiver under the sanitizers and peers with a right certificate that lie: about lengths, names,
 * sums, order. Each ends its own connection; the store goes on and has what honest peers sent. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "store_parts.h"
#include "stream_channel.h"
#include "stream_receiver.h"
#include "tls_parts.h"

#define TIMEOUT_MS 3000
#define PAGES      200u
#define QUOTA      (8u << 20)

static char root[] = "/tmp/stream-XXXXXX", store_path[64];
static char certificate[64], key[64], authority[64], target_certificate[64], target_key[64];
static const uint8_t token[PF_STREAM_TOKEN_BYTES] = {1, 2, 3};
static uint16_t port;
static struct pf_receiver *receiver;
static struct pf_store *store;
static SSL_CTX *ctx;
static uint64_t session = 1000;

static void start(void)
{
	const struct pf_stream_tls source = {certificate, key, authority};
	const struct pf_stream_tls target = {target_certificate, target_key, authority};

	CHECK(mkdtemp(root));
	tls_make(root);
	snprintf(certificate, sizeof(certificate), "%s/source.crt", root);
	snprintf(key, sizeof(key), "%s/source.key", root);
	snprintf(authority, sizeof(authority), "%s/authority.crt", root);
	snprintf(target_certificate, sizeof(target_certificate), "%s/target.crt", root);
	snprintf(target_key, sizeof(target_key), "%s/target.key", root);
	snprintf(store_path, sizeof(store_path), "%s/store", root);
	CHECK_EQUAL(pf_receiver_start(&receiver, "127.0.0.1", &port, &target, TIMEOUT_MS, NULL), 0);
	CHECK_EQUAL(pf_store_create(&store, store_path, QUOTA, NULL), 0);
	CHECK_EQUAL(pf_receiver_expect(receiver, token, "source", store, NULL), 0);
	ctx = pf_channel_context(&source, false, NULL);
	CHECK(ctx);
}

/* ---- a peer that writes what it likes */

static void dial(struct pf_channel *channel)
{
	pf_channel_init(channel, TIMEOUT_MS);
	CHECK_EQUAL(pf_channel_connect(channel, "127.0.0.1", port, ctx, "target", NULL), 0);
}

static void hello(struct pf_channel *channel, struct pf_hello greeting)
{
	struct pf_frame frame = {.type = PF_FRAME_HELLO, .payload_bytes = sizeof(greeting)};

	CHECK_EQUAL(pf_channel_send(channel, &frame, &greeting, NULL), 0);
}

static struct pf_hello sound_hello(void)
{
	struct pf_hello greeting = {
		.version = PF_STREAM_VERSION, .lane = 0, .lanes = 1, .session = session++};

	memcpy(greeting.token, token, sizeof(token));
	return greeting;
}

static void enter(struct pf_channel *channel)
{
	struct pf_frame answer;

	dial(channel);
	hello(channel, sound_hello());
	CHECK_EQUAL(pf_channel_receive(channel, &answer, NULL), 0);
	CHECK_EQUAL(answer.type, PF_FRAME_WELCOME);
}

/* Reads on until the receiver has ended the connection; whether it said why. */
static bool refused(struct pf_channel *channel)
{
	unsigned char payload[PF_FRAME_PAYLOAD_MAX];
	struct pf_frame frame;
	bool said = false;

	while (pf_channel_receive(channel, &frame, NULL) == 0) {
		CHECK_EQUAL(pf_channel_payload(channel, &frame, payload, NULL), 0);
		said = said || frame.type == PF_FRAME_ERROR;
	}
	pf_channel_close(channel);
	return said;
}

static void half_close(struct pf_channel *channel)
{
	shutdown(channel->fd, SHUT_WR);
}

static struct pf_frame sound_pages(unsigned char *payload, uint64_t *sum)
{
	struct pf_frame frame = {.type = PF_FRAME_PAGES,
				 .pid = 9,
				 .place = 0x10000000,
				 .data = 3,
				 .zero = 4,
				 .payload_bytes = 2 * PF_PAGE_BYTES};
	uint64_t hashes[2];

	for (unsigned at = 0; at < 2; at++) {
		memset(payload + (size_t)at * PF_PAGE_BYTES, (int)at + 1, PF_PAGE_BYTES);
		hashes[at] = pf_page_hash(store->seed, payload + (size_t)at * PF_PAGE_BYTES);
	}
	*sum = pf_frame_sum(hashes, sizeof(hashes));
	return frame;
}

static void send_raw(struct pf_channel *channel, const struct pf_frame *frame, const void *payload,
		     size_t bytes)
{
	/* The receiver may have hung up meanwhile. */
	if (pf_channel_write(channel, frame, sizeof(*frame), true, NULL) == 0)
		pf_channel_write(channel, payload, bytes, false, NULL);
}

static void test_every_flipped_bit_ends_the_connection(void)
{
	unsigned char payload[2 * PF_PAGE_BYTES];
	struct pf_channel channel;
	struct pf_frame frame, flipped;
	uint64_t sum;

	frame = sound_pages(payload, &sum);
	pf_frame_seal(&frame, sum);
	for (unsigned bit = 0; bit < sizeof(frame) * 8; bit += 7) {
		flipped = frame;
		((unsigned char *)&flipped)[bit / 8] ^= (unsigned char)(1 << bit % 8);
		enter(&channel);
		send_raw(&channel, &flipped, payload, sizeof(payload));
		CHECK(refused(&channel));
	}
	for (unsigned at = 0; at < sizeof(payload); at += 511) {
		payload[at] ^= 0x10;
		enter(&channel);
		send_raw(&channel, &frame, payload, sizeof(payload));
		CHECK(refused(&channel));
		payload[at] ^= 0x10;
	}
}

static void test_every_cut_ends_the_connection(void)
{
	unsigned char whole[sizeof(struct pf_frame) + 2 * PF_PAGE_BYTES];
	struct pf_channel channel;
	struct pf_frame frame;
	uint64_t sum;

	frame = sound_pages(whole + sizeof(frame), &sum);
	pf_frame_seal(&frame, sum);
	memcpy(whole, &frame, sizeof(frame));
	for (size_t cut = 0; cut < sizeof(whole); cut += cut < sizeof(frame) ? 3 : 977) {
		enter(&channel);
		CHECK_EQUAL(pf_channel_write(&channel, whole, cut, false, NULL), 0);
		half_close(&channel);
		refused(&channel);
	}
}

static void test_lies_under_right_sums_are_refused(void)
{
	static unsigned char payload[PF_FRAME_PAYLOAD_MAX];
	struct pf_channel channel;
	struct pf_frame frame;
	uint64_t sum;

	for (unsigned lie = 0; lie < 16; lie++) {
		frame = sound_pages(payload, &sum);
		switch (lie) {
		case 0:
			frame.payload_bytes = UINT32_MAX;
			break;
		case 1:
			frame.payload_bytes = PF_PAGE_BYTES;
			break;
		case 2:
			frame.data = UINT64_MAX;
			break;
		case 3:
			frame.place = UINT64_MAX - PF_BLOCK_BYTES + 1;
			break;
		case 4:
			frame.place += PF_PAGE_BYTES;
			break;
		case 5:
			frame.pid = -1;
			break;
		case 6:
			frame.zero = 1;
			break;
		case 7: /* nothing that LZ4 could unpack */
			frame.flags = PF_FRAME_LZ4;
			frame.payload_bytes = 4000;
			break;
		case 8:
			frame.type = PF_FRAME_FILE;
			frame.name_bytes = 4;
			frame.data = 100;
			frame.payload_bytes = 90;
			memcpy(payload, "../x", 4);
			sum = pf_frame_sum(payload, frame.payload_bytes);
			break;
		case 9:
			frame.type = PF_FRAME_FILE;
			frame.name_bytes = 4;
			frame.data = (uint64_t)1 << 40; /* more than the quota */
			frame.payload_bytes = 90;
			memcpy(payload, "abcd", 4);
			sum = pf_frame_sum(payload, frame.payload_bytes);
			break;
		case 10:
			frame.type = PF_FRAME_FILE;
			frame.name_bytes = 200;
			break;
		case 11:
			frame.type = PF_FRAME_HELLO; /* once more */
			frame.payload_bytes = sizeof(struct pf_hello);
			break;
		case 12:
			frame.type = PF_FRAME_ACK;
			frame.payload_bytes = sizeof(struct pf_store_counts);
			break;
		case 13:
			frame.type = 77;
			break;
		case 14:
			frame.flags = 0x8000;
			break;
		case 15:
			frame.type = PF_FRAME_BLOCK;
			frame.payload_bytes = 16;
			sum = pf_frame_sum(payload, frame.payload_bytes);
			break;
		}
		pf_frame_seal(&frame, sum);
		enter(&channel);
		send_raw(&channel, &frame, payload, sizeof(payload));
		CHECK(refused(&channel));
	}
}

static void test_greetings_that_are_no_greetings(void)
{
	struct pf_channel channel;
	struct pf_frame frame = {.type = PF_FRAME_FORGET, .pid = 3};

	dial(&channel);
	CHECK_EQUAL(pf_channel_send(&channel, &frame, NULL, NULL), 0);
	CHECK(refused(&channel));
	for (unsigned lie = 0; lie < 6; lie++) {
		struct pf_hello greeting = sound_hello();

		switch (lie) {
		case 0:
			greeting.version = 2;
			break;
		case 1:
			greeting.lanes = 0;
			break;
		case 2:
			greeting.lanes = 1000;
			break;
		case 3:
			greeting.lane = greeting.lanes = 2;
			break;
		case 4:
			greeting.token[31] ^= 1;
			break;
		case 5: /* a lane of a session that nobody has begun */
			greeting.lanes = 2;
			greeting.lane = 1;
			break;
		}
		dial(&channel);
		hello(&channel, greeting);
		CHECK(refused(&channel));
	}
}

static void test_a_later_session_ends_the_earlier_one(void)
{
	struct pf_channel earlier, later;
	struct pf_frame frame;

	enter(&earlier);
	enter(&later);
	CHECK(pf_channel_receive(&earlier, &frame, NULL) < 0);
	pf_channel_close(&earlier);
	frame = (struct pf_frame){.type = PF_FRAME_FORGET, .pid = 3};
	CHECK_EQUAL(pf_channel_send(&later, &frame, NULL, NULL), 0);
	CHECK(!pf_channel_readable(&later, 100));
	pf_channel_close(&later);
}

/* ---- an honest one */

static void test_the_store_goes_on(void)
{
	struct pf_sender_options options = {.address = "127.0.0.1",
					    .port = port,
					    .peer_name = "target",
					    .tls = {certificate, key, authority},
					    .lanes = 3,
					    .timeout_ms = TIMEOUT_MS};
	unsigned char *memory = mmap(NULL, PAGES * PF_PAGE_BYTES, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct pf_run run = {.vaddr = (uint64_t)(uintptr_t)memory, .pages = PAGES};
	struct pf_store_counts before, after;
	struct pf_sender *sender;

	for (unsigned page = 0; page < PAGES; page++)
		for (unsigned at = 0; page % 5 && at < PF_PAGE_BYTES; at++)
			memory[page * PF_PAGE_BYTES + at] = (unsigned char)(rand() >> 8);
	memcpy(options.token, token, sizeof(token));
	CHECK_EQUAL(pf_sender_open(&sender, &options, NULL), 0);
	CHECK_EQUAL(pf_sender_connect(sender, NULL, 0, NULL), 0);
	CHECK_EQUAL(pf_sender_flush(sender, &before, NULL), 0);
	CHECK_EQUAL(pf_sender_send_runs(sender, getpid(), 11, &run, 1, NULL), 0);
	CHECK_EQUAL(pf_sender_flush(sender, &after, NULL), 0);
	CHECK_EQUAL(after.pages - before.pages, PAGES - PAGES / 5);
	CHECK_EQUAL(after.zero_pages - before.zero_pages, PAGES / 5);
	CHECK_EQUAL(pf_sender_forget_process(sender, 11, NULL), 0);
	CHECK_EQUAL(pf_sender_flush(sender, &after, NULL), 0);
	CHECK_EQUAL(after.pages, before.pages);
	pf_sender_close(sender);
	munmap(memory, PAGES * PF_PAGE_BYTES);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	start();
	test_every_flipped_bit_ends_the_connection();
	test_every_cut_ends_the_connection();
	test_lies_under_right_sums_are_refused();
	test_greetings_that_are_no_greetings();
	test_a_later_session_ends_the_earlier_one();
	test_the_store_goes_on();
	pf_receiver_close(receiver);
	pf_store_release(store);
	SSL_CTX_free(ctx);
	remove_tree(root);
	return 0;
}
