// SPDX-License-Identifier: Apache-2.0
/* Owns the writing of CRIU's pagemaps; the format is criu_pagemap.c's. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "criu_pagemap.h"

/* Three numbers of ten bytes and one of one, each with its key, and the length. */
#define ENTRY_BYTES (4u + 3u * 11u + 2u)
#define HEAD_BYTES  (4u + 4u + 4u + 6u)

static unsigned char *put_fixed32(unsigned char *at, uint32_t value)
{
	memcpy(at, &value, sizeof(value)); /* CRIU writes the machine's own order */
	return at + sizeof(value);
}

static unsigned char *put_field(unsigned char *at, unsigned number, uint64_t value)
{
	*at++ = (unsigned char)(number << 3);
	for (; value >= 0x80; value >>= 7)
		*at++ = (unsigned char)(value | 0x80);
	*at++ = (unsigned char)value;
	return at;
}

static unsigned char *put_entry(unsigned char *at, const struct pf_pagemap_entry *entry)
{
	unsigned char *length = at;

	at += sizeof(uint32_t);
	at = put_field(at, 1, entry->start);
	at = put_field(at, 2, 0); /* of CRIU before 4.1, but required */
	at = put_field(at, 4, entry->flags);
	at = put_field(at, 5, entry->pages);
	put_fixed32(length, (uint32_t)(at - length) - (uint32_t)sizeof(uint32_t));
	return at;
}

int pf_pagemap_write(int directory, const char *name, const struct pf_pagemap *map,
		     struct pf_error *err)
{
	PF_AUTO_FREE unsigned char *bytes = malloc(HEAD_BYTES + map->count * ENTRY_BYTES);
	PF_AUTO_FD int fd = -1;
	unsigned char *at = bytes, *length;
	ssize_t written;

	if (!bytes)
		return pf_fail(err, -ENOMEM, "no memory for %s", name);
	at = put_fixed32(at, PF_PAGEMAP_COMMON_MAGIC);
	at = put_fixed32(at, PF_PAGEMAP_MAGIC);
	length = at;
	at = put_field(at + sizeof(uint32_t), 1, map->pages_id);
	put_fixed32(length, (uint32_t)(at - length) - (uint32_t)sizeof(uint32_t));
	for (size_t each = 0; each < map->count; each++)
		at = put_entry(at, &map->entries[each]);
	fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return pf_fail_errno(err, "cannot make %s", name);
	written = write(fd, bytes, (size_t)(at - bytes));
	if (written != at - bytes)
		return pf_fail_errno(err, "cannot write %s", name);
	return 0;
}
