// SPDX-License-Identifier: Apache-2.0
/* Owns the look into a pod's network namespace: which device bears an address, and what is at its
 * other end. A thread enters the namespace, so that the process never does. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "cleanup.h"
#include "error.h"
#include "podferry/hold.h"

#define REPLY_BYTES 32768

static const uint8_t mapped_prefix[12] = {[10] = 0xff, 0xff};

struct search {
	const char *netns_path;
	const uint8_t *address;
	uint32_t ifindex;
	uint32_t peer_ifindex;
	uint8_t mac[6];
	struct pf_error *err;
	int code;
};

struct request {
	struct nlmsghdr header;
	union {
		struct ifaddrmsg address;
		struct ifinfomsg link;
	} body;
};

/* -ENODEV: the dump has ended and VISIT has not returned 1. */
static int dump(int fd, const struct request *request,
		bool (*visit)(const struct nlmsghdr *header, struct search *search),
		struct search *search)
{
	char reply[REPLY_BYTES];
	bool found = false;

	if (send(fd, request, request->header.nlmsg_len, 0) < 0)
		return pf_fail_errno(search->err, "rtnetlink request");
	for (;;) {
		ssize_t bytes = recv(fd, reply, sizeof(reply), 0);
		struct nlmsghdr *header = (struct nlmsghdr *)reply;
		unsigned int left = bytes > 0 ? (unsigned int)bytes : 0;

		if (bytes < 0)
			return pf_fail_errno(search->err, "rtnetlink reply");
		for (; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
			if (header->nlmsg_type == NLMSG_DONE)
				return found ? 0 : -ENODEV;
			if (header->nlmsg_type == NLMSG_ERROR)
				return pf_fail(search->err, -EIO, "rtnetlink refuses the dump");
			found = visit(header, search) || found;
		}
	}
}

static bool visit_address(const struct nlmsghdr *header, struct search *search)
{
	const struct ifaddrmsg *message = NLMSG_DATA(header);
	const struct rtattr *attribute = IFA_RTA(message);
	unsigned int left = IFA_PAYLOAD(header);
	bool is_ipv4 = memcmp(search->address, mapped_prefix, sizeof(mapped_prefix)) == 0;
	size_t skip = is_ipv4 ? sizeof(mapped_prefix) : 0;
	/* IFA_ADDRESS is the other end's on point-to-point devices; IPv6 has IFA_ADDRESS alone. */
	unsigned short wanted = is_ipv4 ? IFA_LOCAL : IFA_ADDRESS;

	if (message->ifa_family != (is_ipv4 ? AF_INET : AF_INET6))
		return false;
	for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
		if (attribute->rta_type != wanted || RTA_PAYLOAD(attribute) != 16 - skip)
			continue;
		if (memcmp(RTA_DATA(attribute), search->address + skip, 16 - skip) == 0) {
			search->ifindex = message->ifa_index;
			return true;
		}
	}
	return false;
}

static bool visit_link(const struct nlmsghdr *header, struct search *search)
{
	const struct ifinfomsg *message = NLMSG_DATA(header);
	const struct rtattr *attribute = IFLA_RTA(message);
	unsigned int left = IFLA_PAYLOAD(header);

	if ((uint32_t)message->ifi_index != search->ifindex)
		return false;
	for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
		if (attribute->rta_type == IFLA_LINK && RTA_PAYLOAD(attribute) == sizeof(uint32_t))
			memcpy(&search->peer_ifindex, RTA_DATA(attribute), sizeof(uint32_t));
		if (attribute->rta_type == IFLA_ADDRESS &&
		    RTA_PAYLOAD(attribute) == sizeof(search->mac))
			memcpy(search->mac, RTA_DATA(attribute), sizeof(search->mac));
	}
	return true;
}

static int look(struct search *search)
{
	struct request addresses = {
		.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
			   .nlmsg_type = RTM_GETADDR,
			   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
	};
	struct request links = {
		.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
			   .nlmsg_type = RTM_GETLINK,
			   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
	};
	PF_AUTO_FD int netns = open(search->netns_path, O_RDONLY | O_CLOEXEC);
	PF_AUTO_FD int fd = -1;
	int code;

	if (netns < 0)
		return pf_fail_errno(search->err, "cannot open the network namespace %s",
				     search->netns_path);
	if (setns(netns, CLONE_NEWNET) < 0)
		return pf_fail_errno(search->err, "cannot enter the network namespace %s",
				     search->netns_path);
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		return pf_fail_errno(search->err, "rtnetlink socket");
	code = dump(fd, &addresses, visit_address, search);
	if (code == 0)
		code = dump(fd, &links, visit_link, search);
	if (code == -ENODEV)
		return pf_fail(search->err, code, "no device in %s bears the pod's address",
			       search->netns_path);
	return code;
}

static void *run(void *pointer)
{
	struct search *search = pointer;

	search->code = look(search);
	return NULL;
}

int pf_hold_find_device(const char *netns_path, const uint8_t address[16], uint32_t *ifindex,
			uint32_t *peer_ifindex, uint8_t mac[6], struct pf_error *err)
{
	struct search search = {.netns_path = netns_path, .address = address, .err = err};
	pthread_t thread;
	int code = pthread_create(&thread, NULL, run, &search);

	if (code != 0)
		return pf_fail(err, -code, "cannot start a thread: %s", strerror(code));
	pthread_join(thread, NULL);
	if (search.code < 0)
		return search.code;
	*ifindex = search.ifindex;
	*peer_ifindex = search.peer_ifindex;
	memcpy(mac, search.mac, sizeof(search.mac));
	return 0;
}
