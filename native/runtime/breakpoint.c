/* SPDX-License-Identifier: Apache-2.0 */
#include "breakpoint.h"

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

int pr_breakpoint_ready(void)
{
	struct perf_event_attr what = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof what,
		.config = PERF_COUNT_SW_DUMMY,
		.disabled = 1,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};
	return (int)syscall(SYS_perf_event_open, &what, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}
