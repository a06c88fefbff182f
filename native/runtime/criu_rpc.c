/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the little of CRIU's RPC that the monitor speaks; a protocol buffer reader by hand. */
#include "criu_rpc.h"

#include <string.h>

/* type = NOTIFY, notify_success = true; and false */
const uint8_t pr_criu_go_on[4] = {1 << 3, PR_CRIU_NOTIFY, 3 << 3, 1};
const uint8_t pr_criu_refuse[4] = {1 << 3, PR_CRIU_NOTIFY, 3 << 3, 0};

struct field {
	uint64_t number;
	uint64_t value; /* of a varint */
	const uint8_t *at;
	size_t bytes; /* of a string or message */
};

static bool take_varint(const uint8_t **at, const uint8_t *end, uint64_t *value)
{
	*value = 0;
	for (unsigned shift = 0; shift < 64; shift += 7) {
		if (*at >= end)
			return false;
		uint8_t byte = *(*at)++;
		*value |= (uint64_t)(byte & 127) << shift;
		if (!(byte & 128))
			return true;
	}
	return false;
}

static bool take_field(const uint8_t **at, const uint8_t *end, struct field *field)
{
	uint64_t key, length = 0;
	if (!take_varint(at, end, &key))
		return false;
	*field = (struct field){.number = key >> 3};
	switch (key & 7) {
	case 0:
		return take_varint(at, end, &field->value);
	case 1:
		length = 8;
		break;
	case 2:
		if (!take_varint(at, end, &length))
			return false;
		break;
	case 5:
		length = 4;
		break;
	default:
		return false;
	}
	if (length > (uint64_t)(end - *at))
		return false;
	field->at = *at;
	field->bytes = (size_t)length;
	*at += length;
	return true;
}

static void copy_text(char *out, size_t size, const struct field *field)
{
	size_t length = field->bytes < size ? field->bytes : size - 1;
	if (length)
		memcpy(out, field->at, length);
	out[length] = '\0';
}

static bool parse_inner(const struct field *outer, struct pr_criu_answer *answer)
{
	const uint8_t *at = outer->at, *end = at + outer->bytes;
	while (at < end) {
		struct field field;
		if (!take_field(&at, end, &field))
			return false;
		bool notify = outer->number == 5;
		if (notify && field.number == 1 && field.at)
			copy_text(answer->script, sizeof answer->script, &field);
		if (field.number == (notify ? 2 : 1) && !field.at)
			answer->pid = (int32_t)field.value;
	}
	return true;
}

bool pr_criu_parse(const uint8_t *packet, size_t bytes, struct pr_criu_answer *answer)
{
	*answer = (struct pr_criu_answer){0};
	const uint8_t *at = packet, *end = packet + bytes;
	while (at < end) {
		struct field field;
		if (!take_field(&at, end, &field))
			return false;
		if (field.number == 1)
			answer->type = field.value;
		if (field.number == 2)
			answer->success = field.value;
		if ((field.number == 4 || field.number == 5) && field.at &&
		    !parse_inner(&field, answer))
			return false;
		if (field.number == 7)
			answer->error = (int32_t)field.value;
		if (field.number == 9 && field.at)
			copy_text(answer->message, sizeof answer->message, &field);
	}
	return answer->type != 0;
}

uint64_t pr_criu_request_type(const uint8_t *packet, size_t bytes)
{
	const uint8_t *at = packet, *end = packet + bytes;
	uint64_t type = 0;
	while (at < end) {
		struct field field;
		if (!take_field(&at, end, &field))
			return 0;
		if (field.number == 1)
			type = field.value;
	}
	return type;
}
