/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the release actions; the service composes them, nobody here knows what they are for. */
#include "release.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bytes.h"

struct write_head {
	uint32_t path_bytes;
};

int pr_release_check(const struct pr_view *item, int count)
{
	struct pr_map_item map;
	uint32_t number;
	switch (item->type) {
	case PR_ITEM_MAP:
		if (item->bytes < sizeof map)
			return -EINVAL;
		memcpy(&map, item->at, sizeof map);
		if (map.fd_index >= (uint32_t)count || !map.key_bytes || map.key_bytes > 512)
			return -EINVAL;
		return (uint64_t)sizeof map + map.key_bytes + map.value_bytes == item->bytes
			       ? 0
			       : -EINVAL;
	case PR_ITEM_NETLINK:
		if (item->bytes < 4 + sizeof(struct nlmsghdr))
			return -EINVAL;
		memcpy(&number, item->at, sizeof number);
		return number < (uint32_t)count ? 0 : -EINVAL;
	case PR_ITEM_WRITE:
		if (item->bytes < 6)
			return -EINVAL;
		memcpy(&number, item->at, sizeof number);
		if (number < 2 || number >= PR_PATH_BYTES || number > item->bytes - 4)
			return -EINVAL;
		return item->at[4] == '/' && !memchr(item->at + 4, 0, number) ? 0 : -EINVAL;
	default:
		return -EINVAL;
	}
}

static int run_map(const struct pr_view *item, const int *fds)
{
	struct pr_map_item map;
	memcpy(&map, item->at, sizeof map);
	const uint8_t *key = item->at + sizeof map;
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.map_fd = (uint32_t)fds[map.fd_index];
	attr.key = (uint64_t)(uintptr_t)key;
	if (map.value_bytes)
		attr.value = (uint64_t)(uintptr_t)(key + map.key_bytes);
	int command = map.value_bytes ? BPF_MAP_UPDATE_ELEM : BPF_MAP_DELETE_ELEM;
	return syscall(SYS_bpf, command, &attr, sizeof attr) < 0 ? -errno : 0;
}

static int run_netlink(const struct pr_view *item, const int *fds)
{
	uint32_t index;
	memcpy(&index, item->at, sizeof index);
	if (send(fds[index], item->at + 4, item->bytes - 4, MSG_NOSIGNAL) < 0)
		return -errno;
	/* rtnetlink has done the work when send returns; the answer, if asked for, is there. */
	char answer[4096];
	ssize_t bytes = recv(fds[index], answer, sizeof answer, MSG_DONTWAIT);
	if (bytes < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)))
		return 0;
	struct nlmsghdr head;
	int error;
	memcpy(&head, answer, sizeof head);
	memcpy(&error, answer + sizeof head, sizeof error);
	return head.nlmsg_type == NLMSG_ERROR ? error : 0;
}

static int run_write(const struct pr_view *item)
{
	char path[PR_PATH_BYTES];
	uint32_t length;
	memcpy(&length, item->at, sizeof length);
	memcpy(path, item->at + 4, length);
	path[length] = '\0';
	return pr_write_existing(path, item->at + 4 + length, item->bytes - 4 - length);
}

int pr_release_run(const struct pr_view *item, const int *fds)
{
	switch (item->type) {
	case PR_ITEM_MAP:
		return run_map(item, fds);
	case PR_ITEM_NETLINK:
		return run_netlink(item, fds);
	default:
		return run_write(item);
	}
}
