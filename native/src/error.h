/* SPDX-License-Identifier: Apache-2.0 */
/* Fills a struct pf_error; the library's own side of podferry/error.h. */
#pragma once

#include "podferry/error.h"

/* Stores CODE (a negative errno) and the sentence, and returns CODE, so that
 * `return pf_fail(err, -errno, "...")` is one line. */
int pf_fail(struct pf_error *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* As pf_fail with the present errno, whose meaning is appended: "what: No such file". */
int pf_fail_errno(struct pf_error *err, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
