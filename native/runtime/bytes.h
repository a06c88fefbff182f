/* SPDX-License-Identifier: Apache-2.0 */
/* Owns small file and path work that every part of the runtime front needs. */
#ifndef PR_BYTES_H
#define PR_BYTES_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PR_PATH_BYTES 4096

/* A file in memory; its own mapping, so that giving it back leaves no heap behind. */
struct pr_blob {
	char *at;
	size_t bytes;
};

/* 0, or -errno; -EFBIG beyond limit. An empty file gives at != NULL and bytes == 0. */
int pr_read_file(const char *path, size_t limit, struct pr_blob *blob);
/* The same for small files, into a buffer, NUL-terminated; gives the length or -errno. */
ssize_t pr_read_small(const char *path, char *buffer, size_t size);
void pr_blob_free(struct pr_blob *blob);

/* Writes into an existing file, as one write (what control files of the kernel want). */
int pr_write_existing(const char *path, const void *data, size_t bytes);
/* Writes a whole file beside its place, then renames it there. */
int pr_write_atomic(const char *path, const void *data, size_t bytes, mode_t mode);

/* snprintf that reports truncation: 0 or -ENAMETOOLONG. */
__attribute__((format(printf, 3, 4))) int pr_format(char *out, size_t size, const char *format,
						    ...);

int pr_mkdirs(const char *path, mode_t mode);
/* Removes a directory with everything in it; stays on its file system and follows no link. */
int pr_remove_tree(const char *path);

/* A positive decimal number that fills the whole text; -1 otherwise. */
long pr_number(const char *text);
/* A name that is one component of a path. */
bool pr_plain_name(const char *name);

uint64_t pr_now_ns(void);

#endif
