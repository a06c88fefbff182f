// SPDX-License-Identifier: Apache-2.0
/* Owns tracking by asynchronous write protection: registration, and what is asked of a mapping. */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "error.h"
#include "inject.h"
#include "kernel_abi.h"
#include "tracker.h"

#define FEATURES (PF_UFFD_FEATURE_WP_ASYNC | PF_UFFD_FEATURE_WP_UNPOPULATED)

static int register_range(struct pf_tracker *tracker, uint64_t start, uint64_t end)
{
	struct uffdio_register request = {
		.range = {.start = start, .len = end - start},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return ioctl(tracker->userfaultfd, UFFDIO_REGISTER, &request) < 0 ? -errno : 0;
}

/* Marks that another mapping has left in the page tables: until Linux 6.13 mremap took them along,
 * and a page that bears one counts as not written. Where there are none nothing is done. */
static void clear_range(struct pf_tracker *tracker, uint64_t start, uint64_t end)
{
	struct uffdio_writeprotect request = {.range = {.start = start, .len = end - start}};

	ioctl(tracker->userfaultfd, UFFDIO_WRITEPROTECT, &request);
}

static int busy(const struct pf_tracker *tracker, struct pf_error *err)
{
	return pf_fail(err, -EBUSY, "process %d uses userfaultfd itself", tracker->pid);
}

int pf_track_wp_open(struct pf_tracker *tracker, struct pf_error *err)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
	int code;

	code = tracker->scanner.classic
		       ? pf_fail(err, -EOPNOTSUPP, "the kernel has no PAGEMAP_SCAN (Linux 6.7)")
		       : 0;
	if (code == 0)
		code = pf_inject_userfaultfd(tracker->pid, &tracker->userfaultfd,
					     &tracker->stopped_ns, err);
	if (code < 0)
		return code;
	if (ioctl(tracker->userfaultfd, UFFDIO_API, &api) < 0)
		return pf_fail_errno(
			err, "userfaultfd has no asynchronous write protection (Linux 6.7)");
	code = pf_vmas_read(&tracker->vmas, tracker->maps, err);
	for (size_t i = 0; code == 0 && i < tracker->vmas.count; i++) {
		const struct pf_vma *vma = &tracker->vmas.list[i];

		if (pf_vma_is_covered(vma) &&
		    register_range(tracker, vma->start, vma->end) == -EBUSY)
			code = busy(tracker, err);
	}
	return code;
}

static int scan(struct pf_tracker *tracker, uint64_t start, uint64_t end, bool everything,
		uint32_t flags)
{
	return pf_scan(&tracker->scanner, start, end,
		       everything ? PF_SCAN_PRESENT : PF_SCAN_WRITTEN, flags, &tracker->found);
}

/* A mapping, or a part of one, that is not tracked yet: everything in it counts as written. */
static int scan_new(struct pf_tracker *tracker, uint64_t start, uint64_t end, bool protect)
{
	size_t mark = tracker->found.count;
	int code = protect ? register_range(tracker, start, end) : -EINVAL;

	if (code == -EBUSY)
		return code;
	if (code == 0) {
		if (tracker->number > 0)
			clear_range(tracker, start, end);
		code = scan(tracker, start, end, true, PF_SCAN_TRACKED | PF_SCAN_PROTECT);
		if (code == 0 || code == -ENOMEM)
			return code;
		/* It changes while it is looked at. What was protected on the way is not told: it
		 * is all given now, and once more in the next round. */
		tracker->owed = true;
		tracker->found.count = mark;
	}
	/* It is gone again, or of a kind that cannot be tracked (MAP_DROPPABLE). */
	return scan(tracker, start, end, true, 0);
}

int pf_track_wp_scan(struct pf_tracker *tracker, uint64_t start, uint64_t end, bool everything,
		     bool protect, struct pf_round *round, struct pf_error *err)
{
	size_t mark = tracker->found.count;
	int code = scan(tracker, start, end, everything,
			PF_SCAN_TRACKED | (protect ? PF_SCAN_PROTECT : 0));

	if (code == 0 && everything)
		return 0; /* nothing was known of it */
	if (code == 0) {
		round->registered_bytes += end - start;
		for (size_t i = mark; i < tracker->found.count; i++)
			round->dirty_pages += tracker->found.list[i].pages;
		return 0;
	}
	if (code == -EPERM) {
		tracker->found.count = mark;
		code = scan_new(tracker, start, end, protect);
	}
	if (code == -EBUSY)
		return busy(tracker, err);
	return code < 0 ? pf_fail(err, code, "PAGEMAP_SCAN of process %d: %s", tracker->pid,
				  strerror(-code))
			: 0;
}
