/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of CRIU's images as files. */
#pragma once

#include <stdint.h>

#include "podferry/error.h"

/* Makes VIEW, a directory (0700) of links to the images in IMAGES whose pagemaps are short: CRIU
 * reads a process's pagemap entry by entry, 0.6 us each, and passes over those of lazy pages, which
 * a pager brings by the full pagemap. A heap of 1 GiB may have 17,000. Neighbours of that kind
 * become one entry; the places of all others in their pages file stay as they are. Only for a lazy
 * restore. May be done again. */
int pf_images_view(const char *images, const char *view, struct pf_error *err);

/* The same in IMAGES itself, for a set that nobody restores but lazily: the pagemaps as they were
 * stay beside the short ones, as full-pagemap-PID.img. */
int pf_images_shorten(const char *images, struct pf_error *err);

/* Adds to the pagemap of process IMAGE_PID what native/criu/left_out.c has written to PATH of
 * process PID, as lazy pages. An empty file: nothing was left out. -EINVAL: it does not go together
 * with what CRIU has dumped; nobody may restore the image. PAGES is increased by how many. */
int pf_images_add_left_out(const char *images, const char *path, int pid, int image_pid,
			   uint64_t *pages, struct pf_error *err);
