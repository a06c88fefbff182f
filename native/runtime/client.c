/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the front's side of the control protocol. */
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "sock.h"

int pr_ask(int fd, uint16_t verb, uint32_t flags, int timeout_ms, struct pr_reply *reply)
{
	uint8_t buffer[2048];
	struct pr_packet packet;
	struct pr_header header;
	struct pr_view item;
	*reply = (struct pr_reply){0};
	pr_wire_start(&packet, buffer, sizeof buffer, verb, 1, 0, flags);
	int failed = pr_sock_send(fd, buffer, packet.used, NULL, 0);
	if (failed)
		return failed == -ECONNRESET ? -EPIPE : failed;
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	int ready;
	do
		ready = poll(&polled, 1, timeout_ms);
	while (ready < 0 && errno == EINTR);
	if (ready <= 0)
		return ready ? -errno : -ETIMEDOUT;
	int fds[PR_FDS_MAX], count;
	ssize_t bytes = pr_sock_receive(fd, buffer, sizeof buffer, fds, PR_FDS_MAX, &count);
	pr_close_all(fds, count);
	if (bytes <= 0)
		return -EPIPE;
	if (!pr_wire_check(buffer, (size_t)bytes, &header) || header.verb != verb)
		return -EPROTO;
	reply->status = header.status;
	if (pr_wire_find(buffer, (size_t)bytes, PR_ITEM_STATE, &item) &&
	    item.bytes >= sizeof reply->state)
		memcpy(&reply->state, item.at, sizeof reply->state);
	if (pr_wire_find(buffer, (size_t)bytes, PR_ITEM_TEXT, &item))
		pr_wire_text(&item, reply->text, sizeof reply->text);
	return 0;
}
