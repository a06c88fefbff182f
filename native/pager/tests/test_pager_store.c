// SPDX-License-Identifier: Apache-2.0
/* Reads sealed page stores that are written here byte by byte: good ones, and such as an enemy would
 * write. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "store.h"
#include "store_index.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define START ((uint64_t)0x7f0000000000)

static char root_path[] = "/tmp/pager-store-XXXXXX";
static int root;

struct file {
	struct pf_index_head head;
	struct pf_index_run runs[3];
	struct pf_index_hot hot[2];
};

static void write_file(const char *name, const void *data, size_t bytes)
{
	int fd = openat(root, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0);
	CHECK_EQUAL(write(fd, data, bytes), bytes);
	close(fd);
}

static void sum_up(struct file *file, size_t rest)
{
	XXH3_state_t state;

	XXH3_64bits_reset(&state);
	XXH3_64bits_update(&state, &file->head, offsetof(struct pf_index_head, sum));
	XXH3_64bits_update(&state, &file->runs, rest);
	file->head.sum = XXH3_64bits_digest(&state);
}

static struct file sound(void)
{
	struct file file = {
		.head = {.magic = PF_INDEX_MAGIC,
			 .pid = 7,
			 .runs = 3,
			 .hot = 2,
			 .pages = 7,
			 .data_bytes = 10 * PAGE_BYTES},
		.runs = {{START, 4, 0},
			 {START + 5 * PAGE_BYTES, 2, 5 * PAGE_BYTES},
			 {START + 100 * PAGE_BYTES, 1, 9 * PAGE_BYTES}},
		.hot = {{START + 100 * PAGE_BYTES, 1}, {START + 2 * PAGE_BYTES, 4}},
	};

	sum_up(&file, sizeof(file) - sizeof(file.head));
	return file;
}

static int read_it(struct runs *runs, struct image_files *files)
{
	*runs = (struct runs){0};
	*files = (struct image_files){0};
	return store_read(root, 7, files, runs, NULL);
}

static int read_and_free(void)
{
	struct image_files files;
	struct runs runs;
	int code = read_it(&runs, &files);

	runs_free(&runs);
	images_close(&files);
	return code;
}

static void test_the_order_is_kept(void)
{
	static const unsigned order[] = {100, 2, 3, 5, 0, 1, 6};
	struct file file = sound();
	struct image_files files;
	struct piece piece;
	struct runs runs;

	write_file("7.index", &file, sizeof(file));
	CHECK_EQUAL(read_it(&runs, &files), 0);
	CHECK_EQUAL(runs.missing, 7);
	for (unsigned at = 0; at < sizeof(order) / sizeof(*order); at++) {
		CHECK(runs_next(&runs, 1, &piece));
		CHECK_EQUAL(piece.start, START + order[at] * PAGE_BYTES);
		/* The test's data says at each page which one it is. */
		CHECK_EQUAL(*piece.bytes, order[at] == 100 ? 9 : order[at]);
		runs_settle(&runs, piece.start, piece.start + PAGE_BYTES);
	}
	CHECK(!runs_next(&runs, 1, &piece));
	runs_free(&runs);
	images_close(&files);
}

static void test_every_cut_and_every_flipped_bit_is_noticed(void)
{
	struct file file = sound();

	for (size_t cut = 0; cut < sizeof(file); cut++) {
		write_file("7.index", &file, cut);
		CHECK(read_and_free() < 0);
	}
	for (size_t bit = 0; bit < sizeof(file) * 8; bit++) {
		struct file flipped = file;

		((unsigned char *)&flipped)[bit / 8] ^= (unsigned char)(1 << bit % 8);
		write_file("7.index", &flipped, sizeof(flipped));
		CHECK(read_and_free() < 0);
	}
}

/* The sums are right, the values are not. */
static void test_impossible_values_are_refused(void)
{
	for (unsigned wrong = 0; wrong < 12; wrong++) {
		struct file file = sound();

		switch (wrong) {
		case 0:
			file.runs[1].start++;
			break;
		case 1:
			file.runs[1].pages = 0;
			break;
		case 2:
			file.runs[1].start = START; /* overlaps */
			break;
		case 3:
			file.runs[2].pages = 2; /* behind the data's end */
			break;
		case 4:
			file.runs[2].offset = UINT64_MAX - PAGE_BYTES + 1;
			break;
		case 5:
			file.runs[2].start = (uint64_t)1 << 56;
			break;
		case 6:
			file.runs[0].pages = UINT64_MAX;
			break;
		case 7:
			file.head.data_bytes = 11 * PAGE_BYTES; /* the file is shorter */
			break;
		case 8:
			file.head.runs = 4;
			break;
		case 9:
			file.head.pages = 8;
			break;
		case 10:
			file.hot[0].pages = UINT64_MAX / 2;
			break;
		case 11:
			file.head.pid = 8;
			break;
		}
		sum_up(&file, sizeof(file) - sizeof(file.head));
		write_file("7.index", &file, sizeof(file));
		CHECK(read_and_free() < 0);
	}
}

static void test_a_process_without_memory_needs_no_data(void)
{
	struct file file = {.head = {.magic = PF_INDEX_MAGIC, .pid = 7}};

	sum_up(&file, 0);
	write_file("7.index", &file, sizeof(file.head));
	CHECK_EQUAL(unlinkat(root, "7.pages", 0), 0);
	CHECK_EQUAL(read_and_free(), 0);
}

static void test_links_are_not_followed(void)
{
	struct file file = sound();

	write_file("8.index", &file, sizeof(file));
	unlinkat(root, "7.index", 0);
	CHECK_EQUAL(symlinkat("8.index", root, "7.index"), 0);
	CHECK(read_and_free() < 0);
	unlinkat(root, "7.index", 0);
	unlinkat(root, "8.index", 0);
	CHECK_EQUAL(read_and_free(), -ENOENT);
}

int main(void)
{
	unsigned char pages[10 * PAGE_BYTES];

	CHECK(mkdtemp(root_path));
	root = open(root_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (unsigned page = 0; page < 10; page++)
		memset(pages + page * PAGE_BYTES, (int)page, PAGE_BYTES);
	write_file("7.pages", pages, sizeof(pages));
	test_the_order_is_kept();
	test_every_cut_and_every_flipped_bit_is_noticed();
	test_impossible_values_are_refused();
	test_a_process_without_memory_needs_no_data();
	test_links_are_not_followed();
	close(root);
	CHECK_EQUAL(rmdir(root_path), 0);
	return 0;
}
