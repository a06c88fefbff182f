/* SPDX-License-Identifier: Apache-2.0 */
/* The two sockets: CRIU's, which brings processes and their userfaultfds, and the monitor's, which
 * gets a duplicate of each. docs/pager.md has the byte layout. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

/* criu/uffd.c: LAZY_PAGES_SOCK_NAME, LAZY_PAGES_RESTORE_FINISHED */
#define CRIU_SOCKET_NAME      "lazy-pages.socket"
#define CRIU_RESTORE_FINISHED 0x52535446u
#define CRIU_SEND_DEADLINE_S  10

#define MONITOR_MAGIC   0x47504650u /* "PFPG" */
#define MONITOR_VERSION 1

enum monitor_type {
	MONITOR_LISTENING = 1,   /* CRIU may connect */
	MONITOR_CONNECTION = 2,  /* fd: CRIU's connection */
	MONITOR_USERFAULTFD = 3, /* fd: space's userfaultfd; pages: how many are missing */
	MONITOR_RESTORED = 4,    /* CRIU has said that its restore is complete */
	MONITOR_OVER = 5,        /* space needs no pager any more: close its duplicate */
	MONITOR_ALL_IN = 6,      /* the last message; pages: how many this pager has placed */
};

struct monitor_message {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	uint32_t space;
	int32_t pid; /* as the images count; of a forked process, its ancestor's */
	uint64_t pages;
	uint64_t reserved;
};

_Static_assert(sizeof(struct monitor_message) == 32, "docs/pager.md");

/* Listens at WORK_DIR/lazy-pages.socket; a socket that an earlier pager left there goes. */
int criu_listen(const char *work_dir, struct pf_error *err);
int criu_accept(int listener, struct pf_error *err);
/* Receives the four bytes that are a pid, negative for a zombie, or CRIU_RESTORE_FINISHED. Gives
 * 0 at CRIU's end of the connection, else 4. */
int criu_receive_number(int connection, uint32_t *number, struct pf_error *err);
int criu_receive_fd(int connection, struct pf_error *err);

/* Sends to the monitor; SOCKET < 0 means that there is none. FD < 0: no descriptor goes with it.
 * Once this returns the descriptor survives this process, even if the monitor has not read yet. */
int monitor_send(int socket, struct monitor_message message, int fd, struct pf_error *err);
