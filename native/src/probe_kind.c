// SPDX-License-Identifier: Apache-2.0
/* Owns the proofs that the kernel can make a kind of network device or queueing discipline. */
#include "podferry/probe.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "cleanup.h"
#include "error.h"
#include "netns.h"

#define LOOPBACK_INDEX 1
#define KIND_BYTES     16 /* IFNAMSIZ, the longest that the kernel takes */

struct request {
	struct nlmsghdr header;
	char body[256];
} __attribute__((aligned(NLMSG_ALIGNTO)));

static void *append(struct request *request, const void *data, size_t bytes)
{
	char *at = (char *)request + NLMSG_ALIGN(request->header.nlmsg_len);

	if (bytes)
		memcpy(at, data, bytes);
	request->header.nlmsg_len =
		NLMSG_ALIGN(request->header.nlmsg_len) + (uint32_t)NLMSG_ALIGN(bytes);
	return at;
}

static struct rtattr *append_attribute(struct request *request, unsigned short type,
				       const void *data, size_t bytes)
{
	struct rtattr header = {.rta_type = type, .rta_len = (unsigned short)RTA_LENGTH(bytes)};
	struct rtattr *at = append(request, &header, sizeof(header));

	append(request, data, bytes);
	return at;
}

/* Sends the request and waits for the kernel's yes or no. */
static int ask(struct request *request, const char *what, const char *kind, struct pf_error *err)
{
	PF_AUTO_FD int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	struct timeval patience = {.tv_sec = 5};
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
	} answer;
	ssize_t got;

	if (fd < 0)
		return pf_fail_errno(err, "NETLINK_ROUTE");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	request->header.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
	if (send(fd, request, request->header.nlmsg_len, 0) < 0)
		return pf_fail_errno(err, "sending to rtnetlink");
	got = recv(fd, &answer, sizeof(answer), MSG_TRUNC);
	if (got < 0)
		return pf_fail_errno(err, "reading from rtnetlink");
	if ((size_t)got < sizeof(answer) || answer.header.nlmsg_type != NLMSG_ERROR)
		return pf_fail(err, -EPROTO, "rtnetlink gave no answer to a request");
	if (answer.error.error < 0)
		return pf_fail(err, answer.error.error, "cannot make a %s of kind %s: %s", what,
			       kind, strerror(-answer.error.error));
	return 0;
}

static int make_link(void *argument, struct pf_error *err)
{
	const char *kind = argument;
	struct ifinfomsg message = {.ifi_family = AF_UNSPEC};
	struct request request = {.header = {.nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = RTM_NEWLINK}};
	struct rtattr *info;

	append(&request, &message, sizeof(message));
	info = append_attribute(&request, IFLA_LINKINFO, NULL, 0);
	append_attribute(&request, IFLA_INFO_KIND, kind, strlen(kind));
	info->rta_len =
		(unsigned short)((char *)&request + request.header.nlmsg_len - (char *)info);
	return ask(&request, "device", kind, err);
}

static int make_qdisc(void *argument, struct pf_error *err)
{
	const char *kind = argument;
	struct tcmsg message = {
		.tcm_family = AF_UNSPEC, .tcm_ifindex = LOOPBACK_INDEX, .tcm_parent = TC_H_ROOT};
	struct request request = {
		.header = {.nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = RTM_NEWQDISC}};

	append(&request, &message, sizeof(message));
	append_attribute(&request, TCA_KIND, kind, strlen(kind) + 1);
	return ask(&request, "queueing discipline", kind, err);
}

static int probe(int (*make)(void *, struct pf_error *), const char *kind, struct pf_error *err)
{
	char copy[KIND_BYTES];

	if (strlen(kind) >= sizeof(copy))
		return pf_fail(err, -EINVAL, "%s is no kind: longer than %d bytes", kind,
			       KIND_BYTES - 1);
	memcpy(copy, kind, strlen(kind) + 1);
	return pf_in_new_netns(make, copy, err);
}

int pf_probe_link_kind(const char *kind, struct pf_error *err)
{
	return probe(make_link, kind, err);
}

int pf_probe_qdisc_kind(const char *kind, struct pf_error *err)
{
	return probe(make_qdisc, kind, err);
}
