/* SPDX-License-Identifier: Apache-2.0 */
/* The page store as CRIU writes it: pagemap-PID.img and pages-N.img of an image set and of the
 * sets below it. The files are hostile input. docs/pager.md has the byte layout. */
#pragma once

#include "error.h"
#include "runs.h"

#define IMAGES_MAX_PARENTS 32

/* Files that are mapped; a run's bytes point into them. */
struct image_files {
	struct image_file {
		void *start;
		size_t bytes;
	} * list;
	size_t count;
};

/* Opens the directory below which every file of a store must lie. */
int images_open_root(const char *path, struct pf_error *err);

/* Adds the lazy pages of process PID in the image set SET (a path below ROOT, "." for itself) to
 * RUNS and closes these. */
int images_read(int root, const char *set, int pid, struct image_files *files, struct runs *runs,
		struct pf_error *err);
/* Maps the first NEEDED bytes of a file, up to images_close. */
int images_map(int fd, uint64_t needed, struct image_files *files, const unsigned char **bytes,
	       struct pf_error *err);
void images_close(struct image_files *files);
