/* SPDX-License-Identifier: Apache-2.0 */
/* Owns how the front tells of its own failures: as runc does, so that containerd finds it. */
#ifndef PR_REPORT_H
#define PR_REPORT_H

#include "argv.h"

/* To the log file of the call in its format, and to stderr. */
__attribute__((format(printf, 2, 3))) void pr_report(const struct pr_call *call, const char *format,
						     ...);

#endif
