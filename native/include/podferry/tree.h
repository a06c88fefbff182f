/* SPDX-License-Identifier: Apache-2.0 */
/* Trees of files: every entry's metadata in one buffer, the difference of two such buffers, and
 * the reading of files by blocks.
 *
 * A buffer is a sequence of struct pf_tree_record, each followed by its path, in the order of a
 * walk that visits a directory before its entries and these by the bytes of their names; the first
 * one, with an empty path, is the root. It is
 * valid within one machine and also crosses the wire (docs/wire.md), so whatever reads one treats
 * it as hostile. Byte order is the machine's; the wire says little-endian. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "podferry/error.h"

enum pf_tree_limits {
	PF_TREE_BLOCK_BYTES = 64 << 10,
	PF_TREE_DEPTH_MAX = 512,
	PF_TREE_PATH_BYTES_MAX = 16 << 10,
};

enum pf_tree_scan_flags {
	PF_TREE_OVERLAY = 1 << 0, /* the upper directory of an overlay: know its marks */
};

enum pf_tree_record_flags {
	PF_TREE_WHITEOUT = 1 << 0, /* hides an entry of a lower layer; every other field is 0 */
	PF_TREE_OPAQUE = 1 << 1,   /* a directory that hides the one below it */
	PF_TREE_REDIRECT = 1 << 2, /* a directory that shows another one of the lower layer */
};

enum pf_tree_compare_flags {
	PF_TREE_ALL_FILES = 1 << 0, /* every regular file counts as changed */
};

/* 72 bytes without holes; BYTES counts the record and its path, which is not ended by a NUL. */
struct pf_tree_record {
	uint32_t bytes;
	uint32_t flags;
	uint32_t mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t links; /* 0 for directories, as is SIZE */
	uint64_t inode;
	uint64_t size;
	int64_t mtime_s;
	int64_t ctime_s;
	uint32_t mtime_ns;
	uint32_t ctime_ns;
	uint64_t device; /* of a device node: major << 32 | minor */
};

struct pf_tree_scan {
	uint8_t *records; /* pf_tree_scan_free() */
	size_t bytes;
	uint64_t entries;
	uint64_t file_system; /* st_dev of the root: major << 32 | minor */
	uint64_t vanished;    /* how many went away while they were looked at */
};

struct pf_tree_pair {
	int64_t old_at; /* offset of the record; -1: there is none */
	int64_t new_at;
};

struct pf_tree_pairs {
	struct pf_tree_pair *pairs; /* pf_tree_pairs_free() */
	size_t count;
};

/* Walks the tree below ROOT_FD, which follows no link and leaves the file system nowhere; a
 * directory that is a mount point is left out. EXCLUDE is a list of paths, each ended by a NUL;
 * they and what is below them are left out.
 *
 * OLD (may be NULL) is an earlier scan of the same tree, since when nothing but directories'
 * entries can have changed: the tasks were frozen, and CRIU made further names. What is in a
 * directory whose times are as they were, and whose ctime is before SETTLED_BEFORE_NS (wall
 * clock: a tick of it before that scan), is then taken over.
 *
 * -E2BIG: more than ENTRIES_MAX entries; -ENAMETOOLONG: deeper than PF_TREE_DEPTH_MAX, or a longer
 * path than PF_TREE_PATH_BYTES_MAX. OUT is empty after a failure. */
int pf_tree_scan(int root_fd, uint32_t flags, const char *exclude, size_t exclude_bytes,
		 uint64_t entries_max, const uint8_t *old, size_t old_bytes,
		 int64_t settled_before_ns, struct pf_tree_scan *out, struct pf_error *err);
void pf_tree_scan_free(struct pf_tree_scan *scan);

/* The records that differ, with those of NEW whose inode is in INODES (ascending), in order.
 * -EINVAL: a buffer is malformed or out of order. */
int pf_tree_compare(const uint8_t *old, size_t old_bytes, const uint8_t *new, size_t new_bytes,
		    uint32_t flags, const uint64_t *inodes, size_t inode_count,
		    struct pf_tree_pairs *out, struct pf_error *err);
void pf_tree_pairs_free(struct pf_tree_pairs *pairs);

/* A sum over what both ends of a transfer see alike: everything but inode numbers, ctime
 * and opacity (overlayfs marks directories that would not need it). */
int pf_tree_summary(const uint8_t *records, size_t bytes, uint64_t out[2], struct pf_error *err);

/* Reads up to BYTES at OFFSET and hashes them by blocks of PF_TREE_BLOCK_BYTES (XXH3 with
 * SEED, 64 bits; 0 for a block of zeros alone). Returns the bytes read; fewer than asked only at the file's end. */
int pf_tree_read_blocks(int fd, uint64_t offset, uint8_t *buffer, uint32_t bytes, uint64_t seed,
			uint64_t *hashes, struct pf_error *err);

/* Makes a hole in a file, or writes zeros where its file system has none. */
int pf_tree_punch(int fd, uint64_t offset, uint64_t bytes, struct pf_error *err);
