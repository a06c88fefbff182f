/* SPDX-License-Identifier: Apache-2.0 */
static const int PF_DIAG_TCP;
static const int PF_DIAG_UDP;
static const int PF_DIAG_UNIX;
static const int PF_DIAG_PACKET;
static const int PF_DIAG_NETLINK;

int pf_probe_userfaultfd(uint64_t *features, struct pf_error *err);
int pf_probe_pagemap_scan(struct pf_error *err);
int pf_probe_soft_dirty(struct pf_error *err);
int pf_probe_process_vm_readv(struct pf_error *err);
int pf_probe_set_tid(struct pf_error *err);
int pf_probe_pidfd_getfd(struct pf_error *err);
int pf_probe_ptrace(struct pf_error *err);
int pf_probe_tcp_repair(struct pf_error *err);
int pf_probe_sock_diag(uint32_t *present, struct pf_error *err);
int pf_probe_link_kind(const char *kind, struct pf_error *err);
int pf_probe_qdisc_kind(const char *kind, struct pf_error *err);
int pf_probe_xdp_generic(struct pf_error *err);
int pf_probe_tcx(struct pf_error *err);
int pf_probe_clsact(struct pf_error *err);
