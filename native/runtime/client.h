/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the front's side of the control protocol: one question, one answer. */
#ifndef PR_CLIENT_H
#define PR_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "wire.h"

struct pr_reply {
	int32_t status;
	struct pr_state_item state;
	char text[400];
};

/* Asks over a connected socket and waits: 0, -EPIPE if the monitor has ended instead of
 * answering, -ETIMEDOUT. */
int pr_ask(int fd, uint16_t verb, uint32_t flags, int timeout_ms, struct pr_reply *reply);

#endif
