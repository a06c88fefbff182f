/* SPDX-License-Identifier: Apache-2.0 */
/* Directories and CRIU images for the tests of stores. */
#pragma once

#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "criu_pagemap.h"

struct image {
	unsigned char data[4096];
	size_t count;
};

static inline void image_put(struct image *image, const void *data, size_t bytes)
{
	CHECK(image->count + bytes <= sizeof(image->data));
	memcpy(image->data + image->count, data, bytes);
	image->count += bytes;
}

static inline void image_field(struct image *image, unsigned number, uint64_t value)
{
	unsigned char byte = (unsigned char)(number << 3);

	image_put(image, &byte, 1);
	do {
		byte = (unsigned char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
		image_put(image, &byte, 1);
		value >>= 7;
	} while (value);
}

static inline void image_message(struct image *image, const struct image *message)
{
	uint32_t bytes = (uint32_t)message->count;

	image_put(image, &bytes, sizeof(bytes));
	image_put(image, message->data, bytes);
}

static inline void image_head(struct image *image)
{
	static const uint32_t magic[2] = {PF_PAGEMAP_COMMON_MAGIC, PF_PAGEMAP_MAGIC};
	struct image message = {.count = 0};

	image->count = 0;
	image_put(image, magic, sizeof(magic));
	image_field(&message, 1, 1);
	image_message(image, &message);
}

static inline void image_entry(struct image *image, uint64_t start, uint64_t pages, uint32_t flags)
{
	struct image message = {.count = 0};

	image_field(&message, 1, start);
	image_field(&message, 2, pages & UINT32_MAX);
	image_field(&message, 4, flags);
	image_field(&message, 5, pages);
	image_message(image, &message);
}

static inline void write_bytes(const char *path, const void *data, size_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0);
	CHECK_EQUAL(write(fd, data, bytes), bytes);
	close(fd);
}

static inline int remove_one(const char *path, const struct stat *status, int kind,
			     struct FTW *walk)
{
	(void)status;
	(void)kind;
	(void)walk;
	return remove(path);
}

static inline void remove_tree(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
