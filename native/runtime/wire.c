/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the control protocol's layout; what packets mean is the monitor's business. */
#include "wire.h"

#include <string.h>

static size_t padded(size_t bytes)
{
	return (bytes + 3) & ~(size_t)3;
}

bool pr_wire_item(const uint8_t *packet, size_t bytes, size_t *offset, struct pr_view *item)
{
	size_t at = *offset ? *offset : sizeof(struct pr_header);
	struct pr_item_header head;
	if (at > bytes || bytes - at < sizeof head)
		return false;
	memcpy(&head, packet + at, sizeof head);
	at += sizeof head;
	if (head.bytes > bytes - at || padded(head.bytes) > bytes - at)
		return false;
	*item = (struct pr_view){head.type, packet + at, head.bytes};
	*offset = at + padded(head.bytes);
	return true;
}

bool pr_wire_check(const uint8_t *packet, size_t bytes, struct pr_header *header)
{
	if (bytes < sizeof *header)
		return false;
	memcpy(header, packet, sizeof *header);
	if (header->magic != PR_MAGIC || header->version != PR_VERSION)
		return false;
	if (header->body_bytes != bytes - sizeof *header)
		return false;
	size_t offset = 0;
	struct pr_view item;
	while (pr_wire_item(packet, bytes, &offset, &item))
		continue;
	return (offset ? offset : sizeof *header) == bytes;
}

bool pr_wire_find(const uint8_t *packet, size_t bytes, uint16_t type, struct pr_view *item)
{
	size_t offset = 0;
	while (pr_wire_item(packet, bytes, &offset, item))
		if (item->type == type)
			return true;
	return false;
}

bool pr_wire_text(const struct pr_view *item, char *out, size_t size)
{
	if (item->bytes >= size || memchr(item->at, 0, item->bytes))
		return false;
	memcpy(out, item->at, item->bytes);
	out[item->bytes] = '\0';
	return true;
}

void pr_wire_start(struct pr_packet *packet, uint8_t *buffer, size_t size, uint16_t verb,
		   uint32_t tag, int32_t status, uint32_t flags)
{
	struct pr_header header = {PR_MAGIC, PR_VERSION, verb, tag, status, flags, 0};
	*packet = (struct pr_packet){buffer, size, sizeof header};
	memcpy(buffer, &header, sizeof header);
}

bool pr_wire_add(struct pr_packet *packet, uint16_t type, const void *payload, size_t bytes)
{
	struct pr_item_header head = {type, 0, (uint32_t)bytes};
	size_t whole = sizeof head + padded(bytes);
	if (bytes > PR_PACKET_BYTES || whole > packet->size - packet->used)
		return false;
	uint8_t *at = packet->at + packet->used;
	memcpy(at, &head, sizeof head);
	memset(at + sizeof head, 0, padded(bytes));
	if (bytes)
		memcpy(at + sizeof head, payload, bytes);
	packet->used += whole;
	uint32_t body = (uint32_t)(packet->used - sizeof(struct pr_header));
	memcpy(packet->at + offsetof(struct pr_header, body_bytes), &body, sizeof body);
	return true;
}
