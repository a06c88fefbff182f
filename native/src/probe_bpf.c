// SPDX-License-Identifier: Apache-2.0
/* Owns the proofs about attaching BPF programs to devices. */
#include "podferry/probe.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "cleanup.h"
#include "error.h"
#include "kernel_abi.h"
#include "netns.h"
#include "podferry/activity.h"

#define LOOPBACK_INDEX 1

static const uint8_t loopback_address[16] = {[10] = 0xff, 0xff, 127, 0, 0, 1};

struct attachment {
	struct pf_activity *activity;
	int program;
	/* Attaches the program of PROGRAM_FD to lo; LINK_FD may be left alone. */
	int (*attach)(int program_fd, int *link_fd, struct pf_error *err);
};

static int attach_xdp_generic(int program_fd, int *link_fd, struct pf_error *err)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = XDP_FLAGS_SKB_MODE);

	*link_fd = bpf_link_create(program_fd, LOOPBACK_INDEX, BPF_XDP, &opts);
	if (*link_fd < 0)
		return pf_fail_errno(err, "cannot attach a generic XDP program to lo");
	return 0;
}

/* Through libbpf's thin wrapper of bpf(2), which knows nothing of this attach type: libbpf 1.1 has
 * no function for tcx. */
static int attach_tcx(int program_fd, int *link_fd, struct pf_error *err)
{
	*link_fd = bpf_link_create(program_fd, LOOPBACK_INDEX,
				   (enum bpf_attach_type)PF_BPF_TCX_INGRESS, NULL);
	if (*link_fd < 0)
		return pf_fail_errno(err, "cannot attach a tcx program to lo");
	return 0;
}

static int attach_clsact(int program_fd, int *link_fd, struct pf_error *err)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = LOOPBACK_INDEX, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = program_fd);
	int code = bpf_tc_hook_create(&hook);

	(void)link_fd; /* the filter goes with the namespace */
	if (code < 0)
		return pf_fail(err, code, "cannot give lo a clsact qdisc: %s", strerror(-code));
	code = bpf_tc_attach(&hook, &opts);
	if (code < 0)
		return pf_fail(err, code, "cannot attach a tc program to lo: %s", strerror(-code));
	return 0;
}

/* A datagram over lo is received before sendto returns, or soon after, on the same CPU. */
static int send_and_receive(struct pf_error *err)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
	socklen_t bytes = sizeof(address);
	struct timeval patience = {.tv_sec = 5};
	PF_AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char byte = 'x';

	if (fd < 0)
		return pf_fail_errno(err, "socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (bind(fd, (struct sockaddr *)&address, bytes) < 0)
		return pf_fail_errno(err, "bind to 127.0.0.1");
	if (getsockname(fd, (struct sockaddr *)&address, &bytes) < 0)
		return pf_fail_errno(err, "getsockname");
	if (sendto(fd, &byte, 1, 0, (struct sockaddr *)&address, bytes) < 0)
		return pf_fail_errno(err, "sending a datagram over lo");
	if (recv(fd, &byte, 1, 0) != 1)
		return pf_fail_errno(err, "receiving a datagram over lo");
	return 0;
}

static int attach_and_count(void *argument, struct pf_error *err)
{
	const struct attachment *attachment = argument;
	PF_AUTO_FD int link_fd = -1;
	struct pf_activity_record record;
	int program_fd = pf_activity_program_fd(attachment->activity, attachment->program);
	int code = attachment->attach(program_fd, &link_fd, err);

	if (code == 0)
		code = pf_activity_watch(attachment->activity, loopback_address, err);
	if (code == 0)
		code = send_and_receive(err);
	if (code == 0)
		code = pf_activity_read(attachment->activity, loopback_address, &record, err);
	if (code < 0)
		return code;
	if (record.received.packets != 1 || record.received.last_ns == 0)
		return pf_fail(err, -ENODATA, "a datagram was sent and the program saw %llu",
			       (unsigned long long)record.received.packets);
	return 0;
}

static int probe(int program, int (*attach)(int, int *, struct pf_error *), struct pf_error *err)
{
	struct attachment attachment = {.program = program, .attach = attach};
	int code = pf_activity_open(&attachment.activity, NULL, NULL, 0, err);

	if (code < 0)
		return code;
	code = pf_in_new_netns(attach_and_count, &attachment, err);
	pf_activity_close(attachment.activity);
	return code;
}

int pf_probe_xdp_generic(struct pf_error *err)
{
	return probe(PF_ACTIVITY_XDP, attach_xdp_generic, err);
}

int pf_probe_tcx(struct pf_error *err)
{
	return probe(PF_ACTIVITY_TC, attach_tcx, err);
}

int pf_probe_clsact(struct pf_error *err)
{
	return probe(PF_ACTIVITY_TC, attach_clsact, err);
}
