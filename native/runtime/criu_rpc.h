/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the little of CRIU's RPC that the monitor reads and writes: answers and acknowledgements.
 * Field numbers are those of images/rpc.proto of CRIU 4.2. */
#ifndef PR_CRIU_RPC_H
#define PR_CRIU_RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PR_CRIU_PACKET_BYTES 4096

enum pr_criu_type {
	PR_CRIU_DUMP = 1,
	PR_CRIU_RESTORE = 2,
	PR_CRIU_PRE_DUMP = 4,
	PR_CRIU_NOTIFY = 6,
};

struct pr_criu_answer {
	uint64_t type;
	bool success;
	int32_t pid; /* of the restored init, or of a notification */
	int32_t error;
	char script[32];
	char message[256];
};

/* False if the bytes are not a well-formed answer. */
bool pr_criu_parse(const uint8_t *packet, size_t bytes, struct pr_criu_answer *answer);
/* The type of a request that the service composed; 0 if it is not well-formed. */
uint64_t pr_criu_request_type(const uint8_t *packet, size_t bytes);

/* "Go on" after a notification, and "no": CRIU undoes what it has done. */
extern const uint8_t pr_criu_go_on[4];
extern const uint8_t pr_criu_refuse[4];

#endif
