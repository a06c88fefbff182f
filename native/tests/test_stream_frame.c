// SPDX-License-Identifier: Apache-2.0
/* Frames' heads: every flipped bit is noticed, and none with impossible values is taken. */
#include <string.h>

#include "check.h"
#include "store_table.h"
#include "stream_frame.h"

static uint64_t state = 88172645463325252u;

static uint64_t dice(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static struct pf_frame sound(enum pf_frame_type type)
{
	struct pf_frame frame = {.type = type};

	switch (type) {
	case PF_FRAME_HELLO:
		frame.payload_bytes = sizeof(struct pf_hello);
		break;
	case PF_FRAME_PAGES:
		frame.pid = 7;
		frame.place = 0x7f0000000000;
		frame.data = 0xf0;
		frame.zero = 0x0f;
		frame.payload_bytes = 4 * PF_PAGE_BYTES;
		break;
	case PF_FRAME_FILE:
		frame.name_bytes = 9;
		frame.payload_bytes = 109;
		frame.data = 100;
		break;
	case PF_FRAME_BLOCK:
		frame.pid = 7;
		frame.data = 3;
		frame.payload_bytes = 16;
		break;
	case PF_FRAME_FORGET:
		frame.pid = 7;
		break;
	case PF_FRAME_FLUSH:
	case PF_FRAME_ACK:
	case PF_FRAME_TABLE_END:
		frame.payload_bytes = sizeof(struct pf_store_counts);
		break;
	default:
		break;
	}
	pf_frame_seal(&frame, 1);
	return frame;
}

static void test_sound_frames_are_taken(void)
{
	for (int type = PF_FRAME_HELLO; type <= PF_FRAME_LAST; type++) {
		struct pf_frame frame = sound(type);

		CHECK_EQUAL(pf_frame_check(&frame, NULL), 0);
	}
}

static void test_every_flipped_bit_is_noticed(void)
{
	for (int type = PF_FRAME_HELLO; type <= PF_FRAME_LAST; type++)
		for (unsigned bit = 0; bit < sizeof(struct pf_frame) * 8; bit++) {
			struct pf_frame frame = sound(type);

			((unsigned char *)&frame)[bit / 8] ^= (unsigned char)(1 << bit % 8);
			CHECK(pf_frame_check(&frame, NULL) < 0);
		}
}

/* Whatever an enemy writes under right sums, what is taken keeps what the receiver relies on. */
static void test_no_impossible_frame_is_taken(void)
{
	unsigned taken = 0;

	for (unsigned round = 0; round < 400000; round++) {
		struct pf_frame frame = sound(1 + dice() % PF_FRAME_LAST);
		unsigned char *bytes = (unsigned char *)&frame;

		for (unsigned changes = 1 + dice() % 3; changes > 0; changes--)
			bytes[dice() % sizeof(frame)] = (unsigned char)dice();
		if (dice() % 4 == 0)
			frame.payload_bytes = (uint32_t)dice();
		pf_frame_seal(&frame, dice());
		if (pf_frame_check(&frame, NULL) < 0)
			continue;
		taken++;
		CHECK(frame.payload_bytes <= PF_FRAME_PAYLOAD_MAX);
		CHECK(frame.type >= PF_FRAME_HELLO && frame.type <= PF_FRAME_LAST);
		if (frame.type == PF_FRAME_PAGES) {
			uint64_t count = (uint64_t)__builtin_popcountll(frame.data);

			CHECK((frame.data & frame.zero) == 0);
			CHECK(frame.place + PF_BLOCK_BYTES <= PF_VADDR_END);
			CHECK(frame.payload_bytes <= count * PF_PAGE_BYTES);
			CHECK(frame.pid > 0);
		}
		if (frame.type == PF_FRAME_FILE) {
			CHECK(frame.name_bytes <= frame.payload_bytes);
			CHECK(frame.name_bytes <= PF_FRAME_NAME_MAX);
			CHECK(frame.place + frame.payload_bytes <= (uint64_t)INT64_MAX);
		}
	}
	CHECK(taken > 1000);
}

static void test_names(void)
{
	static const char *const plain[] = {"core-1.img", "a", "fdinfo-2.img", "A_b.C-9"};
	static const char *const bad[] = {"",     ".",   "..",  ".hidden",  "a/b",
					  "/etc", "a b", "a\n", "\xc3\xa4", "../x"};
	char name[PF_FRAME_NAME_MAX + 2];

	for (size_t at = 0; at < sizeof(plain) / sizeof(*plain); at++)
		CHECK(pf_frame_name_is_plain(plain[at], strlen(plain[at])));
	for (size_t at = 0; at < sizeof(bad) / sizeof(*bad); at++)
		CHECK(!pf_frame_name_is_plain(bad[at], strlen(bad[at])));
	CHECK(!pf_frame_name_is_plain("a\0b", 3));
	memset(name, 'x', sizeof(name));
	CHECK(pf_frame_name_is_plain(name, PF_FRAME_NAME_MAX));
	CHECK(!pf_frame_name_is_plain(name, PF_FRAME_NAME_MAX + 1));
}

int main(void)
{
	test_sound_frames_are_taken();
	test_every_flipped_bit_is_noticed();
	test_no_impossible_frame_is_taken();
	test_names();
	return 0;
}
