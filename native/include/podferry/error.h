/* SPDX-License-Identifier: Apache-2.0 */
/* How every fallible function of the library reports failure.
 *
 * It takes a `struct pf_error *` as its last argument and returns 0, or a negative errno. On
 * failure `err` holds that number and a sentence; on success it is left untouched. `err` may be
 * NULL. */
#pragma once

#define PF_ERROR_MESSAGE_BYTES 1024

struct pf_error {
	int code; /* a negative errno, as returned */
	char message[PF_ERROR_MESSAGE_BYTES];
};
