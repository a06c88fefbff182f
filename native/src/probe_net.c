// SPDX-License-Identifier: Apache-2.0
/* Owns the proofs about sockets: TCP repair mode and sock_diag. */
#include "podferry/probe.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/netlink_diag.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "cleanup.h"
#include "error.h"
#include "netns.h"

#define REPAIR_SEQUENCE  0x0badcafeu
#define TCP_LISTEN_STATE 10 /* the kernel's TCP_LISTEN */

static int set_tcp(int fd, int option, int value, const char *name, struct pf_error *err)
{
	if (setsockopt(fd, IPPROTO_TCP, option, &value, sizeof(value)) < 0)
		return pf_fail_errno(err, "%s = %d", name, value);
	return 0;
}

int pf_probe_tcp_repair(struct pf_error *err)
{
	PF_AUTO_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint32_t sequence = 0;
	socklen_t bytes = sizeof(sequence);
	int code;

	if (fd < 0)
		return pf_fail_errno(err, "socket");
	code = set_tcp(fd, TCP_REPAIR, TCP_REPAIR_ON, "TCP_REPAIR", err);
	if (code == 0)
		code = set_tcp(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE, "TCP_REPAIR_QUEUE", err);
	if (code == 0)
		code = set_tcp(fd, TCP_QUEUE_SEQ, (int)REPAIR_SEQUENCE, "TCP_QUEUE_SEQ", err);
	if (code < 0)
		return code;
	if (getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &sequence, &bytes) < 0)
		return pf_fail_errno(err, "TCP_QUEUE_SEQ");
	if (sequence != REPAIR_SEQUENCE)
		return pf_fail(err, -ENODATA, "TCP_QUEUE_SEQ was set and reads 0x%x", sequence);
	return set_tcp(fd, TCP_REPAIR, TCP_REPAIR_OFF, "TCP_REPAIR", err);
}

struct diag_request {
	struct nlmsghdr header;
	union {
		struct inet_diag_req_v2 inet;
		struct unix_diag_req unix_sockets; /* gcc predefines `unix` in GNU mode */
		struct packet_diag_req packet;
		struct netlink_diag_req netlink;
	} body;
};

/* What a dump showed: whether the family is known, and whether INODE was in it. */
struct dump {
	bool known;
	bool inode_seen;
};

static void read_message(const struct nlmsghdr *header, uint32_t inode, struct dump *dump,
			 bool *finished)
{
	if (header->nlmsg_type == NLMSG_ERROR) {
		const struct nlmsgerr *error = NLMSG_DATA(header);

		dump->known = error->error == 0;
		*finished = true;
	} else if (header->nlmsg_type == NLMSG_DONE) {
		dump->known = true;
		*finished = true;
	} else if (inode && header->nlmsg_len >= NLMSG_LENGTH(sizeof(struct inet_diag_msg))) {
		const struct inet_diag_msg *message = NLMSG_DATA(header);

		dump->inode_seen |= message->idiag_inode == inode;
	}
}

static int dump_family(int fd, struct diag_request *request, size_t body_bytes, uint32_t inode,
		       struct dump *dump, struct pf_error *err)
{
	char buffer[16384] __attribute__((aligned(NLMSG_ALIGNTO)));
	bool finished = false;

	request->header.nlmsg_len = (uint32_t)NLMSG_LENGTH(body_bytes);
	request->header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
	request->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	*dump = (struct dump){0};
	if (send(fd, request, request->header.nlmsg_len, 0) < 0)
		return pf_fail_errno(err, "sending to sock_diag");
	while (!finished) {
		ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
		struct nlmsghdr *header = (struct nlmsghdr *)buffer;

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return pf_fail_errno(err, "reading from sock_diag");
		for (; NLMSG_OK(header, got) && !finished; header = NLMSG_NEXT(header, got))
			read_message(header, inode, dump, &finished);
	}
	return 0;
}

static int dump_inet(int fd, uint8_t protocol, uint32_t inode, struct dump *dump,
		     struct pf_error *err)
{
	struct diag_request request = {
		.body.inet = {.sdiag_family = AF_INET,
			      .sdiag_protocol = protocol,
			      .idiag_states =
				      protocol == IPPROTO_TCP ? 1u << TCP_LISTEN_STATE : ~0u},
	};

	return dump_family(fd, &request, sizeof(request.body.inet), inode, dump, err);
}

static int dump_others(int fd, uint32_t *present, struct pf_error *err)
{
	struct diag_request unix_request = {
		.body.unix_sockets = {.sdiag_family = AF_UNIX, .udiag_states = ~0u}};
	struct diag_request packet_request = {.body.packet = {.sdiag_family = AF_PACKET}};
	struct diag_request netlink_request = {
		.body.netlink = {.sdiag_family = AF_NETLINK, .sdiag_protocol = NDIAG_PROTO_ALL}};
	struct {
		struct diag_request *request;
		size_t body_bytes;
		uint32_t bit;
	} families[] = {
		{&unix_request, sizeof(unix_request.body.unix_sockets), PF_DIAG_UNIX},
		{&packet_request, sizeof(packet_request.body.packet), PF_DIAG_PACKET},
		{&netlink_request, sizeof(netlink_request.body.netlink), PF_DIAG_NETLINK},
	};

	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		struct dump dump;
		int code =
			dump_family(fd, families[i].request, families[i].body_bytes, 0, &dump, err);

		if (code < 0)
			return code;
		if (dump.known)
			*present |= families[i].bit;
	}
	return 0;
}

static int listen_anywhere(int *fd, uint32_t *inode, struct pf_error *err)
{
	struct stat status;

	*fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*fd < 0)
		return pf_fail_errno(err, "socket");
	if (listen(*fd, 1) < 0)
		return pf_fail_errno(err, "listen");
	if (fstat(*fd, &status) < 0)
		return pf_fail_errno(err, "fstat");
	*inode = (uint32_t)status.st_ino;
	return 0;
}

static int diag_in_netns(void *argument, struct pf_error *err)
{
	uint32_t *present = argument;
	PF_AUTO_FD int listener = -1;
	PF_AUTO_FD int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	struct timeval patience = {.tv_sec = 5};
	struct dump dump;
	uint32_t inode = 0;
	int code;

	if (fd < 0)
		return pf_fail_errno(err, "NETLINK_SOCK_DIAG");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	code = listen_anywhere(&listener, &inode, err);
	if (code == 0)
		code = dump_inet(fd, IPPROTO_TCP, inode, &dump, err);
	if (code < 0)
		return code;
	if (dump.known && !dump.inode_seen)
		return pf_fail(err, -ENODATA, "sock_diag does not list a listening TCP socket");
	*present = dump.known ? PF_DIAG_TCP : 0;
	code = dump_inet(fd, IPPROTO_UDP, 0, &dump, err);
	if (code < 0)
		return code;
	*present |= dump.known ? PF_DIAG_UDP : 0;
	return dump_others(fd, present, err);
}

int pf_probe_sock_diag(uint32_t *present, struct pf_error *err)
{
	return pf_in_new_netns(diag_in_netns, present, err);
}
