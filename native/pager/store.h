/* SPDX-License-Identifier: Apache-2.0 */
/* A page store that a stream has filled and sealed: PID.index and PID.pages of one directory, read
 * as hostile input. docs/wire.md has the byte layout. */
#pragma once

#include "error.h"
#include "images.h"
#include "runs.h"

/* Adds the pages of process PID in the directory ROOT to RUNS and closes these. */
int store_read(int root, int pid, struct image_files *files, struct runs *runs,
	       struct pf_error *err);
