// SPDX-License-Identifier: Apache-2.0
/* The store: pages in place, quotas, and the seal against images that are cut, flipped or lie. */
#include <errno.h>
#include <stdlib.h>

#include "store.h"
#include "store_index.h"
#include "store_parts.h"

#define START   ((uint64_t)0x7f0000000000)
#define QUOTA   (64u << 20)
#define IN_SEAL "pagemap-7.img"

static char root[] = "/tmp/store-XXXXXX", directory[64], images[80];
static struct pf_store *store;
static unsigned char payload[PF_BLOCK_BYTES];
static uint64_t hashes[PF_BLOCK_PAGES];

static void fresh_store(uint64_t quota)
{
	pf_store_release(store);
	remove_tree(directory);
	CHECK_EQUAL(pf_store_create(&store, directory, quota, NULL), 0);
}

/* Each page is filled with VALUE plus its number in the frame. */
static int put(int pid, uint64_t block, uint64_t data, uint64_t zero, uint32_t round, int value)
{
	unsigned count = (unsigned)__builtin_popcountll(data);

	for (unsigned at = 0; at < count; at++) {
		memset(payload + (size_t)at * PF_PAGE_BYTES, value + (int)at, PF_PAGE_BYTES);
		hashes[at] = pf_page_hash(0, payload + (size_t)at * PF_PAGE_BYTES);
	}
	return pf_store_put_pages(store, pid, block, data, zero, round, payload, hashes, NULL);
}

static void agree(void)
{
	struct pf_store_counts counts, got;

	pf_store_read_counts(store, &counts, NULL);
	CHECK(pf_store_agrees(store, &counts, &got));
}

static int seal(const struct image *image, struct pf_store_sealed *sealed, struct pf_error *err)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", images, IN_SEAL);
	write_bytes(path, image->data, image->count);
	agree();
	store->sealed = false; /* the tests seal one store many times */
	return pf_store_seal(store, NULL, sealed, err);
}

/* What the pager would read at VADDR; -1: no run has it. */
static int stored(uint64_t vaddr)
{
	struct pf_index_head head;
	struct pf_index_run run;
	char path[128];
	unsigned char byte;
	int found = -1;
	FILE *index;
	int data;

	snprintf(path, sizeof(path), "%s/7.index", directory);
	index = fopen(path, "rb");
	CHECK(index && fread(&head, sizeof(head), 1, index) == 1);
	snprintf(path, sizeof(path), "%s/7.pages", directory);
	data = open(path, O_RDONLY | O_CLOEXEC);
	for (uint64_t at = 0; at < head.runs; at++) {
		CHECK(fread(&run, sizeof(run), 1, index) == 1);
		if (vaddr < run.start || vaddr >= run.start + run.pages * PF_PAGE_BYTES)
			continue;
		CHECK_EQUAL(pread(data, &byte, 1, (off_t)(run.offset + vaddr - run.start)), 1);
		found = byte;
	}
	fclose(index);
	close(data);
	return found;
}

static void test_pages_lie_in_place(void)
{
	struct pf_store_sealed sealed;
	struct image image;

	fresh_store(QUOTA);
	CHECK_EQUAL(put(7, START, ~(uint64_t)0, 0, 0, 1), 0);
	CHECK_EQUAL(put(7, START + PF_BLOCK_BYTES, 0x6, 0x9, 0, 100), 0);
	CHECK_EQUAL(put(7, START, 0x10, 0x20, 1, 200), 0);
	image_head(&image);
	image_entry(&image, START, 68, PF_PAGEMAP_LAZY);
	CHECK_EQUAL(seal(&image, &sealed, NULL), 0);
	CHECK_EQUAL(sealed.pages, 63 + 2);
	CHECK_EQUAL(sealed.zero_pages, 3);
	CHECK_EQUAL(sealed.recent_pages, 1);
	CHECK_EQUAL(stored(START), 1);
	CHECK_EQUAL(stored(START + 4 * PF_PAGE_BYTES), 200);
	CHECK_EQUAL(stored(START + 5 * PF_PAGE_BYTES), -1);
	CHECK_EQUAL(stored(START + 6 * PF_PAGE_BYTES), 7);
	CHECK_EQUAL(stored(START + 65 * PF_PAGE_BYTES), 100);
	CHECK_EQUAL(stored(START + 66 * PF_PAGE_BYTES), 101);
	/* A page that became zero, and came back. */
	store->sealed = false;
	CHECK_EQUAL(put(7, START, 0x20, 0, 2, 50), 0);
	CHECK_EQUAL(seal(&image, &sealed, NULL), 0);
	CHECK_EQUAL(stored(START + 5 * PF_PAGE_BYTES), 50);
}

static void test_regions_far_apart_share_a_small_file(void)
{
	struct pf_store_sealed sealed;
	struct image image;
	struct stat status;
	char path[128];

	fresh_store(QUOTA);
	image_head(&image);
	for (uint64_t at = 1; at <= 20; at++) {
		uint64_t block = at << 41;

		CHECK_EQUAL(put(7, block, 1, 0, 0, (int)at), 0);
		image_entry(&image, block, 1, PF_PAGEMAP_LAZY);
	}
	CHECK_EQUAL(seal(&image, &sealed, NULL), 0);
	for (uint64_t at = 1; at <= 20; at++)
		CHECK_EQUAL(stored(at << 41), at);
	snprintf(path, sizeof(path), "%s/7.pages", directory);
	CHECK_EQUAL(stat(path, &status), 0);
	CHECK(status.st_size <= (off_t)(20 * PF_REGION_BYTES));
}

static void test_quotas_hold(void)
{
	struct pf_store_counts counts;
	int code = 0;

	fresh_store(1 << 20);
	for (uint64_t at = 0; code == 0 && at < 1000; at++)
		code = put(7, START + at * PF_BLOCK_BYTES, 0xff, 0, 0, 1);
	CHECK_EQUAL(code, -EDQUOT);
	pf_store_read_counts(store, &counts, NULL);
	CHECK(counts.pages * PF_PAGE_BYTES <= 1 << 20);
	/* Zero pages are not free either: what is kept about them is memory. */
	fresh_store(1 << 20);
	for (uint64_t at = code = 0; code == 0 && at < 10000; at++)
		code = put(7, START + at * PF_BLOCK_BYTES, 0, 1, 0, 1);
	CHECK_EQUAL(code, -EDQUOT);
	/* Nor are empty files, files' claims, and processes. */
	fresh_store(1 << 20);
	CHECK_EQUAL(pf_store_put_part(store, "a", 2 << 20, 0, "x", 1, 1, NULL), -EDQUOT);
	CHECK_EQUAL(pf_store_put_part(store, "a", UINT64_MAX, 2 << 20, "x", 1, 1, NULL), -EDQUOT);
	for (int at = code = 0; code == 0 && at < 1000; at++) {
		char name[16];

		snprintf(name, sizeof(name), "f%d", at);
		code = pf_store_put_part(store, name, 0, 0, "", 0, 1, NULL);
	}
	CHECK_EQUAL(code, -EDQUOT);
	fresh_store(QUOTA);
	for (int pid = 1, last = code = 0; code == 0 && last <= 10000; pid++, last++)
		code = put(pid, START, 0, 1, 0, 1);
	CHECK_EQUAL(code, -EDQUOT);
}

static void test_what_is_missing_is_found(void)
{
	struct pf_store_sealed sealed;
	struct pf_error err;
	struct image image;

	fresh_store(QUOTA);
	CHECK_EQUAL(put(7, START, ~(uint64_t)0, 0, 0, 1), 0);
	CHECK_EQUAL(put(7, START + PF_BLOCK_BYTES, ~(uint64_t)0 ^ 0x100, 0, 0, 1), 0);
	image_head(&image);
	image_entry(&image, START, 2 * PF_BLOCK_PAGES, PF_PAGEMAP_LAZY);
	CHECK_EQUAL(seal(&image, &sealed, &err), -ENODATA);
	CHECK(strstr(err.message, "0x7f0000048000"));
	image_head(&image);
	image_entry(&image, START + PF_BLOCK_BYTES, 8, PF_PAGEMAP_LAZY);
	image_entry(&image, START + PF_BLOCK_BYTES + 8 * PF_PAGE_BYTES, 1, PF_PAGEMAP_PRESENT);
	CHECK_EQUAL(seal(&image, &sealed, &err), 0);
	CHECK_EQUAL(sealed.pages, 8);
	/* Far more than there is must not take long, nor far from everything. */
	image_head(&image);
	image_entry(&image, START, (uint64_t)1 << 40, PF_PAGEMAP_LAZY);
	CHECK_EQUAL(seal(&image, &sealed, &err), -ENODATA);
	image_head(&image);
	image_entry(&image, 0x1000, 1, PF_PAGEMAP_LAZY);
	CHECK_EQUAL(seal(&image, &sealed, &err), -ENODATA);
	CHECK_EQUAL(pf_store_drop(store, 7, &err), -EROFS);
}

static void test_damaged_images_are_no_harm(void)
{
	struct pf_store_sealed sealed;
	struct image image, changed;

	fresh_store(QUOTA);
	CHECK_EQUAL(put(7, START, ~(uint64_t)0, 0, 0, 1), 0);
	image_head(&image);
	image_entry(&image, START, 3, PF_PAGEMAP_LAZY);
	image_entry(&image, START + 9 * PF_PAGE_BYTES, 40, PF_PAGEMAP_LAZY);
	for (size_t cut = 0; cut < image.count; cut++) {
		changed = image;
		changed.count = cut;
		/* Between two entries a file may end. */
		if (seal(&changed, &sealed, NULL) == 0)
			CHECK(sealed.pages == 0 || sealed.pages == 3);
	}
	for (size_t bit = 0; bit < image.count * 8; bit++) {
		changed = image;
		changed.data[bit / 8] ^= (unsigned char)(1 << bit % 8);
		if (seal(&changed, &sealed, NULL) == 0)
			CHECK(sealed.pages <= 64);
	}
}

static void test_a_store_that_is_not_confirmed_is_not_sealed(void)
{
	struct pf_store_counts counts, got;
	struct pf_store_sealed sealed;

	fresh_store(QUOTA);
	CHECK_EQUAL(put(7, START, 1, 0, 0, 1), 0);
	CHECK_EQUAL(pf_store_seal(store, NULL, &sealed, NULL), -ESTALE);
	fresh_store(QUOTA);
	CHECK_EQUAL(put(7, START, 1, 0, 0, 1), 0);
	pf_store_read_counts(store, &counts, NULL);
	counts.digest ^= 1;
	CHECK(!pf_store_agrees(store, &counts, &got));
	CHECK_EQUAL(pf_store_seal(store, NULL, &sealed, NULL), -ESTALE);
	agree();
	/* Nothing of an image has come. */
	CHECK_EQUAL(pf_store_seal(store, NULL, &sealed, NULL), -ENOENT);
	CHECK_EQUAL(put(7, START, 1, 0, 0, 1), -EROFS);
}

static void test_files_stay_in_their_directory(void)
{
	char path[128];
	struct stat status;

	fresh_store(QUOTA);
	snprintf(path, sizeof(path), "%s/link.img", images);
	CHECK_EQUAL(symlink("/tmp/store-victim", path), 0);
	CHECK(pf_store_put_part(store, "link.img", 1, 0, "x", 1, 1, NULL) < 0);
	CHECK(stat("/tmp/store-victim", &status) < 0);
	CHECK_EQUAL(pf_store_put_part(store, "a.img", 5, 3, "xy", 2, 1, NULL), 0);
	CHECK_EQUAL(pf_store_put_part(store, "a.img", 5, 0, "abc", 3, 1, NULL), 0);
	snprintf(path, sizeof(path), "%s/a.img", images);
	CHECK_EQUAL(stat(path, &status), 0);
	CHECK_EQUAL(status.st_size, 5);
	CHECK_EQUAL(status.st_mode & 0777, 0600);
}

int main(void)
{
	CHECK(mkdtemp(root));
	snprintf(directory, sizeof(directory), "%s/store", root);
	snprintf(images, sizeof(images), "%s/images", directory);
	test_pages_lie_in_place();
	test_regions_far_apart_share_a_small_file();
	test_quotas_hold();
	test_what_is_missing_is_found();
	test_damaged_images_are_no_harm();
	test_a_store_that_is_not_confirmed_is_not_sealed();
	test_files_stay_in_their_directory();
	pf_store_release(store);
	remove_tree(root);
	return 0;
}
