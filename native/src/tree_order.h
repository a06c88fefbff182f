/* SPDX-License-Identifier: Apache-2.0 */
/* The order of records in a buffer. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* A directory, what is below it, then longer names that begin like it. */
static inline int pf_tree_path_order(const uint8_t *left, size_t left_bytes, const uint8_t *right,
				     size_t right_bytes)
{
	size_t common = left_bytes < right_bytes ? left_bytes : right_bytes;

	for (size_t i = 0; i < common; i++) {
		int l = left[i] == '/' ? 0 : left[i], r = right[i] == '/' ? 0 : right[i];

		if (l != r)
			return l - r;
	}
	return left_bytes < right_bytes ? -1 : left_bytes > right_bytes;
}
