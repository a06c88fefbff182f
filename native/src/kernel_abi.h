/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of the kernel's interface that are newer than the headers of our oldest build machine
 * (Linux 6.1), under names of our own, so that newer headers do not clash with them.
 * Source: include/uapi/linux/{fs,userfaultfd,bpf}.h of Linux 6.7. */
#pragma once

#include <linux/types.h>
#include <sys/ioctl.h>

/* fs.h: PAGEMAP_SCAN */
struct pf_page_region {
	__u64 start;
	__u64 end;
	__u64 categories;
};

struct pf_pm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end;
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};

_Static_assert(sizeof(struct pf_pm_scan_arg) == 96, "the size is part of the ioctl's number");

#define PF_PAGEMAP_SCAN          _IOWR('f', 16, struct pf_pm_scan_arg)
#define PF_PAGE_IS_WRITTEN       (1ULL << 1)
#define PF_PAGE_IS_FILE          (1ULL << 2)
#define PF_PAGE_IS_PRESENT       (1ULL << 3)
#define PF_PAGE_IS_SWAPPED       (1ULL << 4)
#define PF_PAGE_IS_PFNZERO       (1ULL << 5)
#define PF_PAGE_IS_GUARD         (1ULL << 8)
#define PF_PM_SCAN_WP_MATCHING   (1ULL << 0)
#define PF_PM_SCAN_CHECK_WPASYNC (1ULL << 1)

/* userfaultfd.h */
#define PF_UFFD_FEATURE_WP_UNPOPULATED (1ULL << 13)
#define PF_UFFD_FEATURE_WP_ASYNC       (1ULL << 15)

/* bpf.h, enum bpf_attach_type */
#define PF_BPF_TCX_INGRESS 46
#define PF_BPF_TCX_EGRESS  47

/* bpf.h, flags of an attachment among others (Linux 6.6) */
#define PF_BPF_F_BEFORE (1U << 3)
