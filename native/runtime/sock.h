/* SPDX-License-Identifier: Apache-2.0 */
/* Owns sockets that carry whole packets with descriptors beside them. */
#ifndef PR_SOCK_H
#define PR_SOCK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* In a state directory; through its descriptor, as the whole path may be longer than a socket's
 * address. They give the socket, or -errno. */
int pr_sock_listen(const char *directory, const char *name);
int pr_sock_connect(const char *directory, const char *name);

/* One packet; 0 or -errno. */
int pr_sock_send(int fd, const void *packet, size_t bytes, const int *fds, int count);
/* One packet and its descriptors, close-on-exec: its length, 0 at the end, or -errno.
 * -EMSGSIZE: too long, or more descriptors than room; those that came are closed. */
ssize_t pr_sock_receive(int fd, void *packet, size_t size, int *fds, int room, int *count);

void pr_close_all(int *fds, int count);

#endif
