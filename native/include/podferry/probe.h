/* SPDX-License-Identifier: Apache-2.0 */
/* Proofs that the kernel does what podferry builds on: each probe uses the feature on something of
 * its own (a mapping, a child, a network namespace) and looks at the outcome.
 *
 * 0 means that the feature was seen to work. A negative errno means that it was not, and the
 * message names the step: -ENODATA where every call succeeded and the outcome was wrong. Nothing
 * of a probe outlives its call. */
#pragma once

#include <stdint.h>

#include "podferry/error.h"

/* Fills a page of a missing range by UFFDIO_COPY; FEATURES gets the kernel's UFFD_FEATURE_ bits,
 * also where the copy then fails. */
int pf_probe_userfaultfd(uint64_t *features, struct pf_error *err);

/* Write-protects a mapping asynchronously, writes one page of it and has PAGEMAP_SCAN report
 * exactly that page, twice (Linux 6.7). */
int pf_probe_pagemap_scan(struct pf_error *err);

/* In a child: clears the soft-dirty bits, writes one page of two, reads the bits of both. */
int pf_probe_soft_dirty(struct pf_error *err);

/* Reads a child's memory by process_vm_readv. */
int pf_probe_process_vm_readv(struct pf_error *err);

/* Makes a child with a pid of our choice by clone3 (needs CAP_CHECKPOINT_RESTORE). */
int pf_probe_set_tid(struct pf_error *err);

/* Takes a descriptor out of a child by pidfd_getfd. */
int pf_probe_pidfd_getfd(struct pf_error *err);

/* Seizes, stops and lets go a child. */
int pf_probe_ptrace(struct pf_error *err);

/* Puts a TCP socket into repair mode and sets a sequence number (needs CAP_NET_ADMIN). */
int pf_probe_tcp_repair(struct pf_error *err);

enum pf_diag {
	PF_DIAG_TCP = 1 << 0,
	PF_DIAG_UDP = 1 << 1,
	PF_DIAG_UNIX = 1 << 2,
	PF_DIAG_PACKET = 1 << 3,
	PF_DIAG_NETLINK = 1 << 4,
};

/* PRESENT gets the pf_diag bits of the families that sock_diag lists. */
int pf_probe_sock_diag(uint32_t *present, struct pf_error *err);

/* Makes a device (or, on lo, a queueing discipline) of this kind in a network namespace of its own:
 * -EOPNOTSUPP or -ENOENT where the kernel does not know the kind. The kernel may load its module. */
int pf_probe_link_kind(const char *kind, struct pf_error *err);
int pf_probe_qdisc_kind(const char *kind, struct pf_error *err);

/* Each attaches the activity program to the loopback of a network namespace of its own, sends a
 * datagram to 127.0.0.1 and reads that it was counted. */
int pf_probe_xdp_generic(struct pf_error *err);
int pf_probe_tcx(struct pf_error *err);
int pf_probe_clsact(struct pf_error *err);
