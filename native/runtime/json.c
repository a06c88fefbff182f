/* SPDX-License-Identifier: Apache-2.0 */
/* Owns reading JSON in place; knows nothing of what the documents mean. */
#include "json.h"

#include <string.h>

#define DEPTH_LIMIT 64

static const char *skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
		at++;
	return at;
}

static bool is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Behind the string that starts at at, or NULL. */
static const char *skip_string(const char *at, const char *end)
{
	if (at >= end || *at != '"')
		return NULL;
	for (at++; at < end; at++) {
		if (*at == '"')
			return at + 1;
		if ((unsigned char)*at < 0x20)
			return NULL;
		if (*at != '\\')
			continue;
		if (++at >= end || !strchr("\"\\/bfnrtu", *at) || !*at)
			return NULL;
		if (*at != 'u')
			continue;
		for (int digit = 0; digit < 4; digit++)
			if (++at >= end || !is_hex(*at))
				return NULL;
	}
	return NULL;
}

static const char *skip_digits(const char *at, const char *end)
{
	const char *from = at;
	while (at < end && *at >= '0' && *at <= '9')
		at++;
	return at == from ? NULL : at;
}

static const char *skip_scalar(const char *at, const char *end)
{
	static const char *const words[] = {"true", "false", "null"};
	for (size_t i = 0; i < 3; i++) {
		size_t length = strlen(words[i]);
		if ((size_t)(end - at) >= length && !memcmp(at, words[i], length))
			return at + length;
	}
	if (at < end && *at == '-')
		at++;
	if (!(at = skip_digits(at, end)))
		return NULL;
	if (at < end && *at == '.' && !(at = skip_digits(at + 1, end)))
		return NULL;
	if (at < end && (*at == 'e' || *at == 'E')) {
		at++;
		if (at < end && (*at == '+' || *at == '-'))
			at++;
		at = skip_digits(at, end);
	}
	return at;
}

static const char *skip_value(const char *at, const char *end, int depth);

static const char *skip_container(const char *at, const char *end, int depth)
{
	bool object = *at == '{';
	char closing = object ? '}' : ']';
	at = skip_space(at + 1, end);
	if (at < end && *at == closing)
		return at + 1;
	for (;;) {
		if (object) {
			at = skip_string(at, end);
			if (!at)
				return NULL;
			at = skip_space(at, end);
			if (at >= end || *at != ':')
				return NULL;
			at = skip_space(at + 1, end);
		}
		at = skip_value(at, end, depth + 1);
		if (!at)
			return NULL;
		at = skip_space(at, end);
		if (at >= end)
			return NULL;
		if (*at == closing)
			return at + 1;
		if (*at != ',')
			return NULL;
		at = skip_space(at + 1, end);
	}
}

/* Behind the value that starts at at, or NULL. */
static const char *skip_value(const char *at, const char *end, int depth)
{
	if (at >= end || depth > DEPTH_LIMIT)
		return NULL;
	if (*at == '"')
		return skip_string(at, end);
	if (*at == '{' || *at == '[')
		return skip_container(at, end, depth);
	return skip_scalar(at, end);
}

bool pr_json_document(const char *text, size_t bytes, struct pr_span *value)
{
	const char *end = text + bytes;
	const char *from = skip_space(text, end);
	const char *behind = skip_value(from, end, 0);
	if (!behind || skip_space(behind, end) != end)
		return false;
	*value = (struct pr_span){from, (size_t)(behind - from)};
	return true;
}

/* The start of the next thing in a container, or NULL at its end. */
static const char *next_in(struct pr_span container, char opening, const char *cursor)
{
	const char *end = container.at + container.bytes;
	if (container.bytes < 2 || *container.at != opening)
		return NULL;
	const char *at = skip_space(cursor ? cursor : container.at + 1, end);
	if (cursor && at < end && *at == ',')
		at = skip_space(at + 1, end);
	return at < end && *at != '}' && *at != ']' ? at : NULL;
}

bool pr_json_member(struct pr_span object, const char **cursor, struct pr_span *key,
		    struct pr_span *value)
{
	const char *end = object.at + object.bytes;
	const char *at = next_in(object, '{', *cursor);
	const char *behind = at ? skip_string(at, end) : NULL;
	if (!behind)
		return false;
	*key = (struct pr_span){at, (size_t)(behind - at)};
	at = skip_space(behind, end);
	if (at >= end || *at != ':')
		return false;
	at = skip_space(at + 1, end);
	behind = skip_value(at, end, 0);
	if (!behind)
		return false;
	*value = (struct pr_span){at, (size_t)(behind - at)};
	*cursor = behind;
	return true;
}

bool pr_json_element(struct pr_span array, const char **cursor, struct pr_span *value)
{
	const char *at = next_in(array, '[', *cursor);
	const char *behind = at ? skip_value(at, array.at + array.bytes, 0) : NULL;
	if (!behind)
		return false;
	*value = (struct pr_span){at, (size_t)(behind - at)};
	*cursor = behind;
	return true;
}

bool pr_json_get(struct pr_span object, const char *name, struct pr_span *value)
{
	const char *cursor = NULL;
	struct pr_span key, found;
	while (pr_json_member(object, &cursor, &key, &found)) {
		if (!pr_json_is(key, name))
			continue;
		*value = found;
		return true;
	}
	return false;
}

bool pr_json_find(struct pr_span object, const char *const *names, struct pr_span *value)
{
	for (; *names; names++) {
		if (!pr_json_get(object, *names, &object))
			return false;
	}
	*value = object;
	return true;
}

static unsigned hex4(const char *at)
{
	unsigned value = 0;
	for (int i = 0; i < 4; i++) {
		char c = at[i];
		unsigned digit = c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 32) - 'a' + 10);
		value = value << 4 | digit;
	}
	return value;
}

static size_t utf8(unsigned code, char *out)
{
	if (code < 0x80)
		return out[0] = (char)code, (size_t)1;
	if (code < 0x800) {
		out[0] = (char)(0xC0 | code >> 6);
		out[1] = (char)(0x80 | (code & 63));
		return 2;
	}
	if (code < 0x10000) {
		out[0] = (char)(0xE0 | code >> 12);
		out[1] = (char)(0x80 | (code >> 6 & 63));
		out[2] = (char)(0x80 | (code & 63));
		return 3;
	}
	out[0] = (char)(0xF0 | code >> 18);
	out[1] = (char)(0x80 | (code >> 12 & 63));
	out[2] = (char)(0x80 | (code >> 6 & 63));
	out[3] = (char)(0x80 | (code & 63));
	return 4;
}

/* The characters of one escape; moves *at behind it. */
static size_t unescape(const char **at, const char *end, char *out)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	char c = (*at)[1];
	*at += 2;
	if (c != 'u') {
		out[0] = to[strchr(from, c) - from];
		return 1;
	}
	unsigned code = hex4(*at);
	*at += 4;
	bool high = code >= 0xD800 && code < 0xDC00;
	if (high && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u') {
		unsigned low = hex4(*at + 2);
		if (low >= 0xDC00 && low < 0xE000) {
			*at += 6;
			code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
		}
	}
	return utf8(code, out);
}

bool pr_json_string(struct pr_span value, char *out, size_t size)
{
	if (value.bytes < 2 || *value.at != '"')
		return false;
	const char *at = value.at + 1, *end = value.at + value.bytes - 1;
	size_t used = 0;
	while (at < end) {
		char piece[4] = {*at};
		size_t length = 1;
		if (*at == '\\')
			length = unescape(&at, end, piece);
		else
			at++;
		if (used + length >= size || (length == 1 && !piece[0]))
			return false;
		memcpy(out + used, piece, length);
		used += length;
	}
	if (used >= size)
		return false;
	out[used] = '\0';
	return true;
}

bool pr_json_is(struct pr_span value, const char *text)
{
	char decoded[256];
	return pr_json_string(value, decoded, sizeof decoded) && !strcmp(decoded, text);
}

bool pr_json_unsigned(struct pr_span value, uint64_t *out)
{
	uint64_t number = 0;
	if (!value.bytes)
		return false;
	for (size_t i = 0; i < value.bytes; i++) {
		char c = value.at[i];
		if (c < '0' || c > '9' || number > (UINT64_MAX - 9) / 10)
			return false;
		number = number * 10 + (uint64_t)(c - '0');
	}
	*out = number;
	return true;
}
