// SPDX-License-Identifier: Apache-2.0
/* Reads image sets that are written here byte by byte: good ones, and such as an enemy would
 * write. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "criu_pagemap.h"
#include "images.h"

static char root_path[] = "/tmp/pager-images-XXXXXX";
static int root;

struct bytes {
	unsigned char data[4096];
	size_t count;
};

static void put(struct bytes *bytes, const void *data, size_t count)
{
	CHECK(bytes->count + count <= sizeof(bytes->data));
	memcpy(bytes->data + bytes->count, data, count);
	bytes->count += count;
}

static void put_u32(struct bytes *bytes, uint32_t value)
{
	put(bytes, &value, sizeof(value));
}

static void put_varint(struct bytes *bytes, uint64_t value)
{
	do {
		unsigned char byte = (unsigned char)(value & 0x7f) | (value > 0x7f ? 0x80 : 0);

		put(bytes, &byte, 1);
		value >>= 7;
	} while (value);
}

static void put_field(struct bytes *bytes, unsigned number, uint64_t value)
{
	put_varint(bytes, number << 3);
	put_varint(bytes, value);
}

static void put_message(struct bytes *bytes, const struct bytes *message)
{
	put_u32(bytes, (uint32_t)message->count);
	put(bytes, message->data, message->count);
}

static void write_file(const char *name, const void *data, size_t count, off_t size)
{
	int fd = openat(root, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0);
	CHECK_EQUAL(write(fd, data, count), count);
	if (size > 0)
		CHECK_EQUAL(ftruncate(fd, size), 0);
	close(fd);
}

static void head(struct bytes *bytes, uint32_t pages_id)
{
	struct bytes message = {0};

	bytes->count = 0;
	put_u32(bytes, PF_PAGEMAP_COMMON_MAGIC);
	put_u32(bytes, PF_PAGEMAP_MAGIC);
	put_field(&message, 1, pages_id);
	put_message(bytes, &message);
}

static void entry(struct bytes *bytes, uint64_t start, uint64_t pages, uint32_t flags)
{
	struct bytes message = {0};

	put_field(&message, 1, start);
	put_field(&message, 2, pages & UINT32_MAX);
	put_field(&message, 4, flags);
	put_field(&message, 5, pages);
	put_message(bytes, &message);
}

static int read_set(const char *set, struct image_files *files, struct runs *runs)
{
	struct pf_error err = {0};
	int code;

	*files = (struct image_files){0};
	*runs = (struct runs){0};
	code = images_read(root, set, 7, files, runs, &err);
	if (code < 0)
		fprintf(stderr, "(expected) %s\n", err.message);
	return code;
}

static void refused(const char *set, int why)
{
	struct image_files files;
	struct runs runs;

	CHECK_EQUAL(read_set(set, &files, &runs), why);
	runs_free(&runs);
	images_close(&files);
}

static void two_sets(void)
{
	enum { ALL = PF_PAGEMAP_LAZY | PF_PAGEMAP_PRESENT };
	struct bytes map;
	struct image_files files;
	struct runs runs;
	struct piece piece;

	CHECK_EQUAL(mkdirat(root, "one", 0700), 0);
	CHECK_EQUAL(mkdirat(root, "two", 0700), 0);
	CHECK_EQUAL(symlinkat("../one", root, "two/parent"), 0);
	head(&map, 1);
	entry(&map, 0x10000, 3, ALL);
	entry(&map, 0x20000, 2, PF_PAGEMAP_PRESENT);
	entry(&map, 0x30000, 4, ALL);
	write_file("one/pagemap-7.img", map.data, map.count, 0);
	write_file("one/pages-1.img", "", 0, 9 * 4096);
	head(&map, 3);
	entry(&map, 0x10000, 1, ALL);
	entry(&map, 0x11000, 2, PF_PAGEMAP_LAZY | PF_PAGEMAP_IN_PARENT);
	entry(&map, 0x20000, 2, PF_PAGEMAP_PRESENT);
	entry(&map, 0x31000, 2, PF_PAGEMAP_LAZY | PF_PAGEMAP_IN_PARENT);
	entry(&map, 0x40000, 1, ALL);
	write_file("two/pagemap-7.img", map.data, map.count, 0);
	write_file("two/pages-3.img", "", 0, 4 * 4096);

	CHECK_EQUAL(read_set("two", &files, &runs), 0);
	CHECK_EQUAL(files.count, 2);
	CHECK_EQUAL(runs.missing, 6);
	CHECK_EQUAL(runs.count, 4);
	CHECK(runs_missing(&runs, 0x11000, 0x12000, 1, &piece));
	CHECK(piece.bytes == (unsigned char *)files.list[1].start + 4096);
	CHECK(runs_missing(&runs, 0x32000, 0x33000, 1, &piece));
	CHECK(piece.bytes == (unsigned char *)files.list[1].start + 7 * 4096);
	CHECK(runs_missing(&runs, 0x40000, 0x41000, 1, &piece));
	CHECK(piece.bytes == (unsigned char *)files.list[0].start + 3 * 4096);
	CHECK(!runs_missing(&runs, 0x20000, 0x22000, 1, &piece));
	runs_free(&runs);
	images_close(&files);
}

static void damaged(const struct bytes *map, int why)
{
	write_file("bad/pagemap-7.img", map->data, map->count, 0);
	refused("bad", why);
}

static void hostile_maps(void)
{
	enum { ALL = PF_PAGEMAP_LAZY | PF_PAGEMAP_PRESENT };
	struct bytes map, cut;

	CHECK_EQUAL(mkdirat(root, "bad", 0700), 0);
	write_file("bad/pages-1.img", "", 0, 8 * 4096);
	refused("bad", -ENOENT);
	map.count = 0;
	damaged(&map, -EINVAL);
	head(&map, 1);
	map.data[0] ^= 1;
	damaged(&map, -EINVAL);
	head(&map, 1);
	entry(&map, 0x10001, 1, ALL); /* not a page's address */
	damaged(&map, -EINVAL);
	head(&map, 1);
	entry(&map, 0x10000, 0, ALL);
	damaged(&map, -EINVAL);
	head(&map, 1);
	entry(&map, 0xfffffffffffff000, 1, ALL);
	damaged(&map, -EINVAL);
	head(&map, 1);
	entry(&map, 0x10000, UINT64_MAX / 2, ALL);
	damaged(&map, -EINVAL);
	head(&map, 1);
	entry(&map, 0x10000, 9, ALL); /* more than the file has */
	damaged(&map, -EINVAL);
	head(&map, 1);
	entry(&map, 0x10000, 4, ALL);
	entry(&map, 0x12000, 4, ALL); /* over the first one */
	damaged(&map, -EINVAL);
	head(&map, 1);
	entry(&map, 0x10000, 1, PF_PAGEMAP_LAZY); /* dumped without its bytes */
	damaged(&map, -ENODATA);
	head(&map, 1);
	entry(&map, 0x10000, 1, PF_PAGEMAP_LAZY | PF_PAGEMAP_IN_PARENT); /* there is none */
	damaged(&map, -ENODATA);
	head(&map, 2); /* its pages file is not there */
	entry(&map, 0x10000, 1, ALL);
	damaged(&map, -ENOENT);
	/* Cut short at each byte: refused, or fewer entries, never a crash. */
	head(&map, 1);
	entry(&map, 0x7ffc0000000, 4, ALL);
	entry(&map, 0x7fff0000000, 4, ALL);
	for (cut = map; cut.count > 0; cut.count--) {
		struct image_files files;
		struct runs runs;

		write_file("bad/pagemap-7.img", cut.data, cut.count, 0);
		read_set("bad", &files, &runs);
		CHECK(runs.missing <= 8);
		runs_free(&runs);
		images_close(&files);
	}
	/* Each byte wrong. */
	for (size_t at = 0; at < map.count; at++) {
		struct image_files files;
		struct runs runs;

		cut = map;
		cut.data[at] ^= 0xff;
		write_file("bad/pagemap-7.img", cut.data, cut.count, 0);
		read_set("bad", &files, &runs);
		runs_free(&runs);
		images_close(&files);
	}
}

static void no_way_out(void)
{
	struct bytes map;

	/* A good set that lies outside. */
	CHECK_EQUAL(mkdirat(root, "inner", 0700), 0);
	CHECK_EQUAL(mkdirat(root, "inner/set", 0700), 0);
	head(&map, 1);
	entry(&map, 0x31000, 1, PF_PAGEMAP_LAZY | PF_PAGEMAP_IN_PARENT);
	write_file("inner/set/pagemap-7.img", map.data, map.count, 0);
	CHECK_EQUAL(symlinkat("../../one", root, "inner/set/parent"), 0);
	refused("../etc", -EXDEV);
	refused("/etc", -EXDEV);
	{
		struct image_files files = {0};
		struct runs runs = {0};
		int inner = openat(root, "inner", O_PATH | O_CLOEXEC);

		CHECK_EQUAL(images_read(inner, "set", 7, &files, &runs, NULL), -EXDEV);
		close(inner);
		runs_free(&runs);
		images_close(&files);
	}
	/* Files must be files. */
	CHECK_EQUAL(symlinkat("../one/pages-1.img", root, "bad/pages-9.img"), 0);
	head(&map, 9);
	entry(&map, 0x10000, 1, PF_PAGEMAP_LAZY | PF_PAGEMAP_PRESENT);
	write_file("bad/pagemap-7.img", map.data, map.count, 0);
	refused("bad", -ELOOP);
	CHECK_EQUAL(unlinkat(root, "bad/pages-9.img", 0), 0);
	CHECK_EQUAL(mkfifoat(root, "bad/pages-9.img", 0600), 0);
	refused("bad", -EINVAL);
	/* A set that is its own parent. */
	CHECK_EQUAL(symlinkat(".", root, "bad/parent"), 0);
	head(&map, 1);
	entry(&map, 0x10000, 1, PF_PAGEMAP_LAZY | PF_PAGEMAP_IN_PARENT);
	write_file("bad/pagemap-7.img", map.data, map.count, 0);
	refused("bad", -ELOOP);
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
	(void)status, (void)kind, (void)walk;
	return remove(path);
}

static void remove_all(void)
{
	nftw(root_path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
	struct pf_error err = {0};

	CHECK(mkdtemp(root_path));
	atexit(remove_all);
	root = images_open_root(root_path, &err);
	CHECK(root >= 0);
	two_sets();
	hostile_maps();
	no_way_out();
	close(root);
	return 0;
}
