// SPDX-License-Identifier: Apache-2.0
/* Hostile records, and a walk over a small tree; the rest is tested from Python (tests/files). */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "podferry.h"

static char place[] = "/tmp/podferry-tree-XXXXXX";

static void make_tree(void)
{
	int dir;

	CHECK(mkdtemp(place));
	dir = open(place, O_RDONLY | O_DIRECTORY);
	CHECK(dir >= 0);
	CHECK_EQUAL(mkdirat(dir, "a", 0755), 0);
	CHECK_EQUAL(mkdirat(dir, "a/b", 0755), 0);
	CHECK_EQUAL(mkfifoat(dir, "a.b", 0644), 0);
	CHECK_EQUAL(symlinkat("/etc", dir, "a/link"), 0);
	close(dir);
}

static void remove_tree(void)
{
	int dir = open(place, O_RDONLY | O_DIRECTORY);

	unlinkat(dir, "a/link", 0);
	unlinkat(dir, "a.b", 0);
	unlinkat(dir, "a/b", AT_REMOVEDIR);
	unlinkat(dir, "a", AT_REMOVEDIR);
	close(dir);
	rmdir(place);
}

static struct pf_tree_scan scan(const char *exclude, size_t exclude_bytes)
{
	struct pf_tree_scan out;
	struct pf_error err = {0};
	int dir = open(place, O_RDONLY | O_DIRECTORY);

	CHECK_EQUAL(pf_tree_scan(dir, 0, exclude, exclude_bytes, 100, NULL, 0, 0, &out, &err), 0);
	close(dir);
	return out;
}

static void a_walk_is_in_order_and_equal_to_itself(void)
{
	struct pf_tree_scan one = scan(NULL, 0), other = scan(NULL, 0);
	struct pf_tree_pairs pairs;
	uint64_t sum[2];

	CHECK_EQUAL(one.entries, 5);
	CHECK_EQUAL(pf_tree_compare(one.records, one.bytes, other.records, other.bytes, 0, NULL, 0,
				    &pairs, NULL),
		    0);
	CHECK_EQUAL(pairs.count, 0);
	pf_tree_pairs_free(&pairs);
	CHECK_EQUAL(pf_tree_summary(one.records, one.bytes, sum, NULL), 0);
	CHECK(sum[0] != 0);
	pf_tree_scan_free(&one);
	pf_tree_scan_free(&other);
}

static void what_is_excluded_is_left_out_with_what_is_below(void)
{
	struct pf_tree_scan out = scan("a\0other", 8);

	CHECK_EQUAL(out.entries, 2);
	pf_tree_scan_free(&out);
}

static void too_many_entries_are_refused(void)
{
	struct pf_tree_scan out;
	struct pf_error err = {0};
	int dir = open(place, O_RDONLY | O_DIRECTORY);

	CHECK_EQUAL(pf_tree_scan(dir, 0, NULL, 0, 3, NULL, 0, 0, &out, &err), -E2BIG);
	CHECK(out.records == NULL);
	close(dir);
}

static void damaged_records_are_refused(void)
{
	struct pf_tree_scan out = scan(NULL, 0);
	struct pf_tree_pairs pairs;
	uint64_t sum[2];

	/* In a block of its own size, so that the sanitizer sees a read behind the end. */
	for (size_t bytes = 1; bytes < out.bytes; bytes++) {
		uint8_t *cut = malloc(bytes);
		int code;

		CHECK(cut);
		memcpy(cut, out.records, bytes);
		code = pf_tree_summary(cut, bytes, sum, NULL);
		CHECK(code == 0 || code == -EINVAL);
		code = pf_tree_compare(cut, bytes, out.records, out.bytes, 0, NULL, 0, &pairs,
				       NULL);
		CHECK(code == 0 || code == -EINVAL);
		pf_tree_pairs_free(&pairs);
		free(cut);
	}
	for (size_t at = 0; at < out.bytes; at++) {
		out.records[at] ^= 0xFF;
		if (pf_tree_summary(out.records, out.bytes, sum, NULL) == 0) {
			CHECK_EQUAL(pf_tree_compare(out.records, out.bytes, out.records, out.bytes,
						    0, NULL, 0, &pairs, NULL),
				    0);
			pf_tree_pairs_free(&pairs);
		}
		out.records[at] ^= 0xFF;
	}
	pf_tree_scan_free(&out);
}

static void blocks_of_zeros_hash_to_zero(void)
{
	uint8_t *buffer = malloc(PF_TREE_BLOCK_BYTES * 3);
	uint64_t hashes[3] = {7, 7, 7};
	FILE *file = tmpfile();

	CHECK(buffer && file);
	CHECK_EQUAL(ftruncate(fileno(file), PF_TREE_BLOCK_BYTES * 2 + 5), 0);
	CHECK_EQUAL(pwrite(fileno(file), "x", 1, PF_TREE_BLOCK_BYTES), 1);
	CHECK_EQUAL(pf_tree_read_blocks(fileno(file), 0, buffer, PF_TREE_BLOCK_BYTES * 3, 7, hashes,
					NULL),
		    PF_TREE_BLOCK_BYTES * 2 + 5);
	CHECK_EQUAL(hashes[0], 0);
	CHECK(hashes[1] != 0);
	CHECK_EQUAL(hashes[2], 0);
	CHECK_EQUAL(pf_tree_punch(fileno(file), PF_TREE_BLOCK_BYTES, 1, NULL), 0);
	pf_tree_read_blocks(fileno(file), PF_TREE_BLOCK_BYTES, buffer, PF_TREE_BLOCK_BYTES, 7,
			    hashes, NULL);
	CHECK_EQUAL(hashes[0], 0);
	fclose(file);
	free(buffer);
}

int main(void)
{
	make_tree();
	a_walk_is_in_order_and_equal_to_itself();
	what_is_excluded_is_left_out_with_what_is_below();
	too_many_entries_are_refused();
	damaged_records_are_refused();
	blocks_of_zeros_hash_to_zero();
	remove_tree();
	return 0;
}
