// SPDX-License-Identifier: Apache-2.0
/* Owns the comparison of two scans of a tree; knows no file. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "error.h"
#include "podferry/tree.h"
#include "tree_order.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdlib.h>

_Static_assert(sizeof(struct pf_tree_record) == 72, "the wire format is this structure");

/* A place in a buffer, and the record there once `next` has said that there is one. */
struct cursor {
	const uint8_t *bytes;
	size_t used, end;
	size_t at; /* of the present record */
	struct pf_tree_record record;
	const uint8_t *path;
	size_t path_bytes;
	bool is_there;
};

static int next(struct cursor *cursor, struct pf_error *err)
{
	const uint8_t *before = cursor->path;
	size_t before_bytes = cursor->path_bytes, left = cursor->end - cursor->used;

	cursor->is_there = left > 0;
	if (!left)
		return 0;
	if (left < sizeof(cursor->record))
		return pf_fail(err, -EINVAL, "a record of a tree is cut off at %zu", cursor->used);
	memcpy(&cursor->record, cursor->bytes + cursor->used, sizeof(cursor->record));
	if (cursor->record.bytes < sizeof(cursor->record) || cursor->record.bytes > left ||
	    cursor->record.bytes - sizeof(cursor->record) > PF_TREE_PATH_BYTES_MAX)
		return pf_fail(err, -EINVAL, "a record of a tree at %zu has %u bytes", cursor->used,
			       cursor->record.bytes);
	cursor->at = cursor->used;
	cursor->path = cursor->bytes + cursor->used + sizeof(cursor->record);
	cursor->path_bytes = cursor->record.bytes - sizeof(cursor->record);
	cursor->used += cursor->record.bytes;
	if (before &&
	    pf_tree_path_order(before, before_bytes, cursor->path, cursor->path_bytes) >= 0)
		return pf_fail(err, -EINVAL, "records of a tree are out of order at %zu",
			       cursor->at);
	return 0;
}

static int by_number(const void *left, const void *right)
{
	uint64_t l = *(const uint64_t *)left, r = *(const uint64_t *)right;

	return l < r ? -1 : l > r;
}

static bool must_be_looked_at(const struct pf_tree_record *record, uint32_t flags,
			      const uint64_t *inodes, size_t inode_count)
{
	if (!S_ISREG(record->mode))
		return false;
	if (flags & PF_TREE_ALL_FILES)
		return true;
	return inode_count &&
	       bsearch(&record->inode, inodes, inode_count, sizeof(*inodes), by_number) != NULL;
}

static int add(struct pf_tree_pairs *out, size_t *room, const struct cursor *old,
	       const struct cursor *new)
{
	if (out->count == *room) {
		size_t more = *room ? *room * 2 : 256;
		struct pf_tree_pair *grown = realloc(out->pairs, more * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		out->pairs = grown;
		*room = more;
	}
	out->pairs[out->count].old_at = old ? (int64_t)old->at : -1;
	out->pairs[out->count].new_at = new ? (int64_t) new->at : -1;
	out->count++;
	return 0;
}

static int merge(struct cursor *old, struct cursor *new, uint32_t flags, const uint64_t *inodes,
		 size_t inode_count, struct pf_tree_pairs *out, struct pf_error *err)
{
	size_t room = 0;

	while (old->is_there || new->is_there) {
		int order = !old->is_there   ? 1
			    : !new->is_there ? -1
					     : pf_tree_path_order(old->path, old->path_bytes,
								  new->path, new->path_bytes);
		bool differs = order != 0 ||
			       memcmp(&old->record, &new->record, sizeof(old->record)) != 0 ||
			       must_be_looked_at(&new->record, flags, inodes, inode_count);

		if (differs && add(out, &room, order <= 0 ? old : NULL, order >= 0 ? new : NULL))
			return pf_fail(err, -ENOMEM, "no memory for a difference");
		if (order <= 0 && next(old, err))
			return -EINVAL;
		if (order >= 0 && next(new, err))
			return -EINVAL;
	}
	return 0;
}

int pf_tree_compare(const uint8_t *old, size_t old_bytes, const uint8_t *new, size_t new_bytes,
		    uint32_t flags, const uint64_t *inodes, size_t inode_count,
		    struct pf_tree_pairs *out, struct pf_error *err)
{
	struct cursor left = {.bytes = old, .end = old_bytes};
	struct cursor right = {.bytes = new, .end = new_bytes};
	int code;

	*out = (struct pf_tree_pairs){0};
	code = next(&left, err);
	if (!code)
		code = next(&right, err);
	if (!code)
		code = merge(&left, &right, flags, inodes, inode_count, out, err);
	if (code)
		pf_tree_pairs_free(out);
	return code;
}

void pf_tree_pairs_free(struct pf_tree_pairs *pairs)
{
	free(pairs->pairs);
	*pairs = (struct pf_tree_pairs){0};
}

int pf_tree_summary(const uint8_t *records, size_t bytes, uint64_t out[2], struct pf_error *err)
{
	struct cursor cursor = {.bytes = records, .end = bytes};

	out[0] = out[1] = 0;
	for (;;) {
		XXH128_hash_t hash;
		int code = next(&cursor, err);

		if (code || !cursor.is_there)
			return code;
		cursor.record.inode = 0;
		cursor.record.flags &= ~(uint32_t)PF_TREE_OPAQUE;
		cursor.record.ctime_s = 0;
		cursor.record.ctime_ns = 0;
		hash = XXH3_128bits(&cursor.record, sizeof(cursor.record));
		hash = XXH3_128bits_withSeed(cursor.path, cursor.path_bytes,
					     hash.low64 ^ hash.high64);
		out[0] += hash.low64;
		out[1] += hash.high64;
	}
}
