// SPDX-License-Identifier: Apache-2.0
/* Owns what is read from CRIU and written to the monitor; knows nothing of pages. CRIU's side is
 * criu/uffd.c (send_uffd, lazy_pages_finish_restore) and include/common/scm-code.c of CRIU 4.2. */
#include "protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"

union one_fd {
	char bytes[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

int criu_listen(const char *work_dir, struct pf_error *err)
{
	/* Through a descriptor: a socket's address has room for 107 characters only. */
	PF_AUTO_FD int directory = open(work_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	mode_t mask;
	int fd, code;

	if (directory < 0)
		return pf_fail_errno(err, "cannot open the work directory %s", work_dir);
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" CRIU_SOCKET_NAME,
		 directory);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return pf_fail_errno(err, "cannot make CRIU's socket");
	if (unlink(address.sun_path) < 0 && errno != ENOENT) {
		code = pf_fail_errno(err, "cannot remove the old " CRIU_SOCKET_NAME " in %s",
				     work_dir);
		close(fd);
		return code;
	}
	mask = umask(0177);
	code = bind(fd, (struct sockaddr *)&address, sizeof(address));
	umask(mask);
	if (code < 0 || listen(fd, 1) < 0) {
		code = pf_fail_errno(err, "cannot listen at " CRIU_SOCKET_NAME " in %s", work_dir);
		close(fd);
		return code;
	}
	return fd;
}

int criu_accept(int listener, struct pf_error *err)
{
	/* CRIU sends the descriptor right behind the pid: a longer pause means that it is stuck,
	 * and faults wait behind it. */
	struct timeval deadline = {.tv_sec = CRIU_SEND_DEADLINE_S};
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return pf_fail_errno(err, "cannot accept CRIU's connection");
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline)) < 0) {
		int code = pf_fail_errno(err, "cannot limit the wait for CRIU");

		close(fd);
		return code;
	}
	return fd;
}

int criu_receive_number(int connection, uint32_t *number, struct pf_error *err)
{
	ssize_t got = recv(connection, number, sizeof(*number), MSG_WAITALL);

	if (got < 0)
		return pf_fail_errno(err, "cannot receive from CRIU");
	if (got != 0 && got != sizeof(*number))
		return pf_fail(err, -EPROTO, "CRIU's message has %zd bytes of 4", got);
	return (int)got;
}

int criu_receive_fd(int connection, struct pf_error *err)
{
	union one_fd control = {0};
	char dummy;
	struct iovec data = {&dummy, 1};
	struct msghdr header = {.msg_iov = &data,
				.msg_iovlen = 1,
				.msg_control = &control,
				.msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(connection, &header, MSG_CMSG_CLOEXEC);
	struct cmsghdr *found;
	int fd;

	if (got < 0)
		return pf_fail_errno(err, "cannot receive a descriptor from CRIU");
	found = got == 1 ? CMSG_FIRSTHDR(&header) : NULL;
	if (!found || found->cmsg_level != SOL_SOCKET || found->cmsg_type != SCM_RIGHTS ||
	    found->cmsg_len != CMSG_LEN(sizeof(int)))
		return pf_fail(err, -EPROTO, "CRIU has sent no descriptor behind a pid");
	memcpy(&fd, CMSG_DATA(found), sizeof(fd));
	return fd;
}

int monitor_send(int socket, struct monitor_message message, int fd, struct pf_error *err)
{
	union one_fd control = {0};
	struct iovec data = {&message, sizeof(message)};
	struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1};
	ssize_t sent;

	if (socket < 0)
		return 0;
	message.magic = MONITOR_MAGIC;
	message.version = MONITOR_VERSION;
	if (fd >= 0) {
		struct cmsghdr *rights;

		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
		rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
	}
	do
		sent = sendmsg(socket, &header, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent == sizeof(message) ? 0 : pf_fail_errno(err, "cannot tell the monitor");
}
