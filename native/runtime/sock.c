/* SPDX-License-Identifier: Apache-2.0 */
/* Owns sockets that carry whole packets with descriptors beside them; parses nothing. */
#include "sock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bytes.h"
#include "wire.h"

static int open_at(const char *directory, const char *name, struct sockaddr_un *address)
{
	int at = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (at < 0)
		return -errno;
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	int failed = pr_format(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d/%s",
			       at, name);
	if (!failed)
		return at;
	close(at);
	return failed;
}

int pr_sock_listen(const char *directory, const char *name)
{
	struct sockaddr_un address;
	int at = open_at(directory, name, &address);
	if (at < 0)
		return at;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int failed = fd < 0 ? -errno : 0;
	unlinkat(at, name, 0);
	if (!failed && bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
		failed = -errno;
	if (!failed && listen(fd, 64) < 0)
		failed = -errno;
	close(at);
	if (failed && fd >= 0)
		close(fd);
	return failed ? failed : fd;
}

int pr_sock_connect(const char *directory, const char *name)
{
	struct sockaddr_un address;
	int at = open_at(directory, name, &address);
	if (at < 0)
		return at;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int failed = fd < 0 ? -errno : 0;
	if (!failed && connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		failed = -errno;
	close(at);
	if (failed && fd >= 0)
		close(fd);
	return failed ? failed : fd;
}

int pr_sock_send(int fd, const void *packet, size_t bytes, const int *fds, int count)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int) * PR_FDS_MAX)];
	} control;
	struct iovec part = {(void *)(uintptr_t)packet, bytes};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	if (count > PR_FDS_MAX)
		return -E2BIG;
	if (count) {
		size_t size = sizeof(int) * (size_t)count;
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(size);
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(size);
		memcpy(CMSG_DATA(head), fds, size);
	}
	ssize_t sent;
	do
		sent = sendmsg(fd, &message, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

ssize_t pr_sock_receive(int fd, void *packet, size_t size, int *fds, int room, int *count)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int) * PR_FDS_MAX)];
	} control;
	struct iovec part = {packet, size};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof control};
	*count = 0;
	ssize_t bytes;
	do
		bytes = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	while (bytes < 0 && errno == EINTR);
	if (bytes < 0)
		return -errno;
	bool too_many = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
	for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head;
	     head = CMSG_NXTHDR(&message, head)) {
		if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
			continue;
		size_t given = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < given; i++) {
			int one;
			memcpy(&one, CMSG_DATA(head) + i * sizeof one, sizeof one);
			if (*count < room) {
				fds[(*count)++] = one;
			} else {
				close(one);
				too_many = true;
			}
		}
	}
	if (!too_many)
		return bytes;
	pr_close_all(fds, *count);
	*count = 0;
	return -EMSGSIZE;
}

void pr_close_all(int *fds, int count)
{
	for (int i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}
