// SPDX-License-Identifier: Apache-2.0
/* Owns the proofs about memory: userfaultfd, PAGEMAP_SCAN with asynchronous write protection,
 * soft-dirty bits. */
#include "podferry/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "child.h"
#include "cleanup.h"
#include "error.h"
#include "kernel_abi.h"

#define PROBE_PAGES    8
#define SOFT_DIRTY_BIT 55

static int open_userfaultfd(int *fd, uint64_t wanted, uint64_t *features, struct pf_error *err)
{
	struct uffdio_api api = {.api = UFFD_API, .features = wanted};
	PF_AUTO_FD int opened = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (opened < 0)
		return pf_fail_errno(err, "userfaultfd");
	if (ioctl(opened, UFFDIO_API, &api) < 0)
		return pf_fail_errno(err, "UFFDIO_API with features 0x%llx",
				     (unsigned long long)wanted);
	*features = api.features;
	*fd = opened;
	opened = -1;
	return 0;
}

static int map_pages(struct pf_mapping *mapping, size_t pages, struct pf_error *err)
{
	mapping->bytes = pages * (size_t)sysconf(_SC_PAGESIZE);
	mapping->start = mmap(NULL, mapping->bytes, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mapping->start == MAP_FAILED)
		return pf_fail_errno(err, "mmap of %zu bytes", mapping->bytes);
	/* A huge page would be reported as a whole, and the probes count single pages. */
	madvise(mapping->start, mapping->bytes, MADV_NOHUGEPAGE);
	return 0;
}

static int register_mapping(int fd, const struct pf_mapping *mapping, uint64_t mode,
			    struct pf_error *err)
{
	struct uffdio_register request = {
		.range = {.start = (uintptr_t)mapping->start, .len = mapping->bytes},
		.mode = mode,
	};

	if (ioctl(fd, UFFDIO_REGISTER, &request) < 0)
		return pf_fail_errno(err, "UFFDIO_REGISTER in mode %llu", (unsigned long long)mode);
	return 0;
}

int pf_probe_userfaultfd(uint64_t *features, struct pf_error *err)
{
	PF_AUTO_FD int fd = -1;
	PF_AUTO_MAPPING struct pf_mapping source = {.start = MAP_FAILED};
	PF_AUTO_MAPPING struct pf_mapping target = {.start = MAP_FAILED};
	struct uffdio_copy copy = {0};
	int code = open_userfaultfd(&fd, 0, features, err);

	if (code == 0)
		code = map_pages(&source, 1, err);
	if (code == 0)
		code = map_pages(&target, 1, err);
	if (code == 0)
		code = register_mapping(fd, &target, UFFDIO_REGISTER_MODE_MISSING, err);
	if (code < 0)
		return code;
	memset(source.start, 0x5a, source.bytes);
	copy.dst = (uintptr_t)target.start;
	copy.src = (uintptr_t)source.start;
	copy.len = target.bytes;
	if (ioctl(fd, UFFDIO_COPY, &copy) < 0)
		return pf_fail_errno(err, "UFFDIO_COPY");
	if (memcmp(source.start, target.start, target.bytes) != 0)
		return pf_fail(err, -ENODATA, "UFFDIO_COPY left other bytes than it was given");
	return 0;
}

/* Has the kernel report and protect again what was written; FOUND gets the number of pages. */
static int scan_written(int pagemap, const struct pf_mapping *mapping, struct pf_page_region *first,
			uint64_t *found, struct pf_error *err)
{
	struct pf_page_region regions[PROBE_PAGES];
	struct pf_pm_scan_arg scan = {
		.size = sizeof(scan),
		.flags = PF_PM_SCAN_WP_MATCHING | PF_PM_SCAN_CHECK_WPASYNC,
		.start = (uintptr_t)mapping->start,
		.end = (uintptr_t)mapping->start + mapping->bytes,
		.vec = (uintptr_t)regions,
		.vec_len = PROBE_PAGES,
		.category_mask = PF_PAGE_IS_WRITTEN,
		.return_mask = PF_PAGE_IS_WRITTEN,
	};
	int count = ioctl(pagemap, PF_PAGEMAP_SCAN, &scan);

	if (count < 0)
		return pf_fail_errno(err, "PAGEMAP_SCAN");
	*found = 0;
	for (int i = 0; i < count; i++)
		*found += (regions[i].end - regions[i].start) / (uint64_t)sysconf(_SC_PAGESIZE);
	if (count > 0)
		*first = regions[0];
	return 0;
}

static int expect_written(int pagemap, const struct pf_mapping *mapping, size_t page,
			  struct pf_error *err)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	volatile char *address = (char *)mapping->start + page * page_bytes;
	struct pf_page_region region = {0};
	uint64_t found = 0;
	int code;

	*address = 1;
	code = scan_written(pagemap, mapping, &region, &found, err);
	if (code < 0)
		return code;
	if (found != 1 || region.start != (uintptr_t)address)
		return pf_fail(err, -ENODATA, "page %zu was written and %llu pages were reported",
			       page, (unsigned long long)found);
	return 0;
}

int pf_probe_pagemap_scan(struct pf_error *err)
{
	PF_AUTO_FD int uffd = -1;
	PF_AUTO_FD int pagemap = -1;
	PF_AUTO_MAPPING struct pf_mapping mapping = {.start = MAP_FAILED};
	struct pf_page_region region;
	uint64_t features, found;
	int code = open_userfaultfd(
		&uffd, PF_UFFD_FEATURE_WP_ASYNC | PF_UFFD_FEATURE_WP_UNPOPULATED, &features, err);

	if (code == 0)
		code = map_pages(&mapping, PROBE_PAGES, err);
	if (code == 0)
		code = register_mapping(uffd, &mapping, UFFDIO_REGISTER_MODE_WP, err);
	if (code < 0)
		return code;
	/* Half of the pages exist before the first round and half do not: both must be tracked. */
	memset(mapping.start, 1, mapping.bytes / 2);
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		return pf_fail_errno(err, "/proc/self/pagemap");
	code = scan_written(pagemap, &mapping, &region, &found, err); /* protects everything */
	if (code == 0)
		code = expect_written(pagemap, &mapping, 2, err);
	if (code == 0)
		code = expect_written(pagemap, &mapping, PROBE_PAGES - 1, err);
	return code;
}

static int soft_dirty_of(int pagemap, const char *address)
{
	uint64_t entry;
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	off_t offset = (off_t)((uintptr_t)address / page_bytes * sizeof(entry));

	if (pread(pagemap, &entry, sizeof(entry), offset) != sizeof(entry))
		return -EIO;
	return (int)(entry >> SOFT_DIRTY_BIT & 1);
}

/* In a child, because clearing the bits clears them for the whole process. */
static int soft_dirty_body(void *argument)
{
	const struct pf_mapping *mapping = argument;
	size_t page_bytes = mapping->bytes / 2;
	volatile char *pages = mapping->start;
	PF_AUTO_FD int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	PF_AUTO_FD int clear = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	int untouched, touched;

	if (pagemap < 0 || clear < 0)
		return -errno;
	pages[0] = 1;
	pages[page_bytes] = 1;
	if (write(clear, "4", 1) != 1)
		return -errno;
	pages[page_bytes] = 2;
	untouched = soft_dirty_of(pagemap, (const char *)mapping->start);
	touched = soft_dirty_of(pagemap, (const char *)mapping->start + page_bytes);
	if (untouched < 0 || touched < 0)
		return -EIO;
	return untouched == 0 && touched == 1 ? 0 : -ENODATA;
}

int pf_probe_soft_dirty(struct pf_error *err)
{
	PF_AUTO_MAPPING struct pf_mapping mapping = {.start = MAP_FAILED};
	PF_AUTO_CHILD struct pf_child child = PF_CHILD_NONE;
	int outcome;
	int code = map_pages(&mapping, 2, err);

	if (code == 0)
		code = pf_child_start(&child, soft_dirty_body, &mapping, err);
	if (code == 0)
		code = pf_child_value(&child, &outcome, err);
	if (code < 0)
		return code;
	if (outcome == -ENODATA)
		return pf_fail(err, outcome, "a written page does not show its soft-dirty bit");
	if (outcome < 0)
		return pf_fail(err, outcome, "clear_refs or pagemap: %s", strerror(-outcome));
	return 0;
}
