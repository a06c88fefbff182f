// SPDX-License-Identifier: Apache-2.0
/* Owns the wording of errors; knows no caller. */
#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int pf_fail(struct pf_error *err, int code, const char *format, ...)
{
	if (err) {
		va_list args;

		err->code = code;
		va_start(args, format);
		vsnprintf(err->message, sizeof(err->message), format, args);
		va_end(args);
	}
	return code;
}

int pf_fail_errno(struct pf_error *err, const char *format, ...)
{
	int code = errno ? -errno : -EIO;

	if (err) {
		va_list args;
		size_t used;

		err->code = code;
		va_start(args, format);
		vsnprintf(err->message, sizeof(err->message), format, args);
		va_end(args);
		used = strlen(err->message);
		snprintf(err->message + used, sizeof(err->message) - used, ": %s", strerror(-code));
	}
	return code;
}
