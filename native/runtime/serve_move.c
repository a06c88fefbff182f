/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the control protocol's verbs of a move: what each answers in which state. */
#include <string.h>

#include "monitor.h"

#define NO_STATUS (-1)

/* An exit status that the question carries; false if it is none. */
static bool find_status(const uint8_t *packet, size_t bytes, int *status)
{
	struct pr_view item;
	uint32_t value;
	*status = NO_STATUS;
	if (!pr_wire_find(packet, bytes, PR_ITEM_STATUS, &item))
		return true;
	if (item.bytes != sizeof value)
		return false;
	memcpy(&value, item.at, sizeof value);
	*status = (int)value;
	return value <= 255;
}

static bool changes_to(const struct pr_monitor *monitor, enum pr_goal goal)
{
	bool changing = monitor->state == PR_CHECKPOINTING || monitor->state == PR_WAKING;
	return changing && monitor->operation.goal == goal;
}

/* 0 is an answer at once, 1 waits for the end of the change of state, else a refusal. */
static int32_t resume(struct pr_monitor *monitor, bool *waits, const char **why)
{
	if (monitor->state == PR_RUNNING)
		return PR_OK;
	*waits = true;
	/* Asked by somebody who does not know how far the dump has come. */
	if (changes_to(monitor, PR_TO_HOLD) || changes_to(monitor, PR_TO_RESUME))
		return PR_OK;
	return pr_hold_resume(monitor, why);
}

static int32_t depart(struct pr_monitor *monitor, const uint8_t *packet, size_t bytes, bool *waits,
		      const char **why)
{
	int status;
	*why = "no exit status";
	if (!find_status(packet, bytes, &status))
		return PR_BAD_REQUEST;
	if (monitor->state == PR_DEPARTED)
		return PR_OK;
	*waits = true;
	if (changes_to(monitor, PR_TO_DEPART))
		return PR_OK;
	return pr_hold_depart(monitor, status == NO_STATUS ? 0 : status, why);
}

static int32_t go(struct pr_monitor *monitor, bool *waits, const char **why)
{
	if (monitor->state == PR_RUNNING && monitor->arrived)
		return PR_OK;
	*waits = true;
	if (changes_to(monitor, PR_TO_GO))
		return PR_OK;
	return pr_claim_go(monitor, why);
}

static int32_t drop(struct pr_monitor *monitor, bool *waits, const char **why)
{
	if (monitor->state == PR_CLAIMED)
		return PR_OK;
	*waits = true;
	if (changes_to(monitor, PR_TO_DROP))
		return PR_OK;
	return pr_claim_drop(monitor, why);
}

static void leave(struct pr_monitor *monitor, struct pr_connection *connection,
		  const struct pr_header *header, const uint8_t *packet, size_t bytes)
{
	int status;
	bool good = find_status(packet, bytes, &status);
	/* A claimed container may be one that has finished on the node that its pod leaves. */
	if (!good || (monitor->state != PR_DEPARTED && monitor->state != PR_CLAIMED)) {
		pr_serve_answer(monitor, connection, PR_EXIT, header->tag,
				good ? PR_WRONG_STATE : PR_BAD_REQUEST,
				good ? "the container has neither departed nor is it claimed"
				     : "no exit status");
		return;
	}
	pr_serve_answer(monitor, connection, PR_EXIT, header->tag, PR_OK, NULL);
	pr_monitor_end_all(monitor, status == NO_STATUS ? monitor->agreed : status);
}

bool pr_serve_move(struct pr_monitor *monitor, struct pr_connection *connection,
		   const struct pr_header *header, const uint8_t *packet, size_t bytes,
		   const int *fds, int count)
{
	const char *why = NULL;
	bool waits = false;
	int32_t status;
	/* A change that ends at once answers those who wait: so this one is among them. */
	switch (header->verb) {
	case PR_RESUME:
		status = resume(monitor, &waits, &why);
		break;
	case PR_DEPART:
		status = depart(monitor, packet, bytes, &waits, &why);
		break;
	case PR_EXIT:
		leave(monitor, connection, header, packet, bytes);
		return true;
	case PR_CLAIM:
		status = pr_claim_begin(monitor, &why);
		break;
	case PR_UNCLAIM:
		status = pr_claim_undo(monitor, &why);
		break;
	case PR_PREPARE:
		status = monitor->state == PR_RUNNING
				 ? pr_sleep_prepare(monitor, packet, bytes, fds, count, &why)
				 : pr_claim_prepare(monitor, &why);
		break;
	case PR_GO:
		status = go(monitor, &waits, &why);
		break;
	case PR_DROP:
		status = drop(monitor, &waits, &why);
		break;
	default:
		return false;
	}
	if (waits && !status)
		pr_serve_wait(connection, header);
	else
		pr_serve_answer(monitor, connection, header->verb, header->tag, status,
				status ? why : NULL);
	return true;
}

void pr_serve_move_settled(struct pr_monitor *monitor, struct pr_connection *connection,
			   const struct pr_header *header, int32_t status, const char *text)
{
	enum pr_state wanted = header->verb == PR_RESUME   ? PR_RUNNING
			       : header->verb == PR_DEPART ? PR_DEPARTED
			       : header->verb == PR_GO     ? PR_RUNNING
							   : PR_CLAIMED;
	bool waits = false;
	if (monitor->state == wanted) {
		status = PR_OK;
	} else if (header->verb == PR_RESUME && monitor->state == PR_HELD) {
		status = resume(monitor, &waits, &text);
		if (!status) {
			pr_serve_wait(connection, header);
			return;
		}
	} else if (!status) {
		status = PR_WRONG_STATE;
		text = "something else has happened to the container meanwhile";
	}
	pr_serve_answer(monitor, connection, header->verb, header->tag, status,
			status ? text : NULL);
}
