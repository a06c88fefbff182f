// SPDX-License-Identifier: Apache-2.0
/* Owns the reading of files by hashed blocks, and the making of holes. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "podferry/tree.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static bool is_zero(const uint8_t *bytes, size_t count)
{
	/* Equal to itself one byte further on, and zero at the start: zero all along. */
	return count == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0);
}

static uint64_t block_hash(const uint8_t *bytes, size_t count, uint64_t seed)
{
	uint64_t hash;

	if (is_zero(bytes, count))
		return 0;
	hash = XXH3_64bits_withSeed(bytes, count, seed);
	return hash ? hash : 1; /* 0 is taken */
}

int pf_tree_read_blocks(int fd, uint64_t offset, uint8_t *buffer, uint32_t bytes, uint64_t seed,
			uint64_t *hashes, struct pf_error *err)
{
	uint32_t used = 0;

	while (used < bytes) {
		ssize_t got = pread(fd, buffer + used, bytes - used, (off_t)(offset + used));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return pf_fail_errno(err, "reading at %llu",
					     (unsigned long long)(offset + used));
		if (got == 0)
			break;
		used += (uint32_t)got;
	}
	for (uint32_t at = 0; at < used; at += PF_TREE_BLOCK_BYTES) {
		uint32_t left = used - at;

		*hashes++ = block_hash(
			buffer + at, left < PF_TREE_BLOCK_BYTES ? left : PF_TREE_BLOCK_BYTES, seed);
	}
	return (int)used;
}

int pf_tree_punch(int fd, uint64_t offset, uint64_t bytes, struct pf_error *err)
{
	static const uint8_t zeros[4096];

	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
		      (off_t)bytes) == 0)
		return 0;
	if (errno != EOPNOTSUPP)
		return pf_fail_errno(err, "making a hole at %llu", (unsigned long long)offset);
	while (bytes) {
		ssize_t put = pwrite(fd, zeros, bytes < sizeof(zeros) ? bytes : sizeof(zeros),
				     (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return pf_fail_errno(err, "writing zeros at %llu",
					     (unsigned long long)offset);
		offset += (uint64_t)put;
		bytes -= (uint64_t)put;
	}
	return 0;
}
