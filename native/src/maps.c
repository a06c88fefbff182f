// SPDX-License-Identifier: Apache-2.0
/* Owns the reading of /proc/PID/maps and status. */
#include "maps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "error.h"

#define FIRST_TEXT_BYTES (64 * 1024)

static int read_text(struct pf_vmas *vmas, int fd, size_t *used, struct pf_error *err)
{
	*used = 0;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return pf_fail_errno(err, "maps of the process");
	for (;;) {
		ssize_t got;

		if (vmas->text_room - *used < FIRST_TEXT_BYTES / 2) {
			size_t room = vmas->text_room ? vmas->text_room * 2 : FIRST_TEXT_BYTES;
			char *text = realloc(vmas->text, room);

			if (!text)
				return pf_fail(err, -ENOMEM, "no memory for a list of mappings");
			vmas->text = text;
			vmas->text_room = room;
		}
		got = read(fd, vmas->text + *used, vmas->text_room - *used - 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == ESRCH)
			got = 0; /* it has been waited for as well */
		if (got < 0)
			return pf_fail_errno(err, "reading the maps of the process");
		*used += (size_t)got;
		if (got == 0)
			break;
	}
	vmas->text[*used] = '\0';
	return 0;
}

static uint64_t hex(const char **at)
{
	char *end;
	uint64_t value = strtoull(*at, &end, 16);

	*at = end;
	return value;
}

static uint8_t kind_of(bool private, const char *file, const char *name)
{
	bool of_no_file = strncmp(file, "00:00 0", 7) == 0;

	if (strncmp(name, "/[aio]", 6) == 0)
		return PF_MAPPING_AIO;
	if (!of_no_file)
		return PF_MAPPING_FILE;
	if (!private)
		return PF_MAPPING_OTHER;
	if (strncmp(name, "[stack]", 7) == 0)
		return PF_MAPPING_MAIN_STACK;
	if (*name == '\n' || *name == '\0' || strncmp(name, "[heap]", 6) == 0 ||
	    strncmp(name, "[anon:", 6) == 0)
		return PF_MAPPING_ANONYMOUS;
	return PF_MAPPING_OTHER; /* [vdso] and the like */
}

/* "START-END rwxp OFFSET MAJOR:MINOR INODE   NAME", Documentation/filesystems/proc.rst */
static bool parse(const char *line, struct pf_vma *out)
{
	const char *at = line, *rights, *file, *name;

	out->start = hex(&at);
	if (at == line || *at++ != '-')
		return false;
	out->end = hex(&at);
	if (*at++ != ' ' || strlen(at) < 5)
		return false;
	rights = at;
	at += 5;
	hex(&at); /* the offset */
	if (*at++ != ' ')
		return false;
	file = at;
	at += strcspn(at, " \n"); /* the device */
	at += strspn(at, " ");
	at += strspn(at, "0123456789"); /* the inode */
	name = at + strspn(at, " ");
	out->writable = rights[1] == 'w';
	out->executable = rights[2] == 'x';
	out->kind = kind_of(rights[3] == 'p', file, name);
	return true;
}

static int add(struct pf_vmas *vmas, const struct pf_vma *vma, struct pf_error *err)
{
	if (vmas->count == vmas->room) {
		size_t room = vmas->room ? vmas->room * 2 : 256;
		struct pf_vma *list = realloc(vmas->list, room * sizeof(*list));

		if (!list)
			return pf_fail(err, -ENOMEM, "no memory for %zu mappings", room);
		vmas->list = list;
		vmas->room = room;
	}
	vmas->list[vmas->count++] = *vma;
	return 0;
}

int pf_vmas_read(struct pf_vmas *vmas, int fd, struct pf_error *err)
{
	size_t used;
	int code = read_text(vmas, fd, &used, err);

	vmas->count = 0;
	for (char *line = vmas->text; code == 0 && *line;) {
		char *end = strchrnul(line, '\n');
		struct pf_vma vma;

		if (parse(line, &vma)) {
			/* It changes between two reads of the file: nothing goes backwards. */
			if (vmas->count > 0 && vma.start < vmas->list[vmas->count - 1].end)
				vma.start = vmas->list[vmas->count - 1].end;
			if (vma.start < vma.end)
				code = add(vmas, &vma, err);
		}
		line = *end ? end + 1 : end;
	}
	return code;
}

void pf_vmas_free(struct pf_vmas *vmas)
{
	free(vmas->list);
	free(vmas->text);
	*vmas = (struct pf_vmas){0};
}

int pf_proc_open(pid_t pid, const char *name, int *fd, struct pf_error *err)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	*fd = open(path, O_RDONLY | O_CLOEXEC);
	if (*fd < 0 && errno == ENOENT)
		return pf_fail(err, -ESRCH, "process %d: there is no such process", pid);
	return *fd < 0 ? pf_fail_errno(err, "%s", path) : 0;
}

int pf_proc_status(pid_t pid, const char *name, int base, uint64_t *out)
{
	char text[4096];
	PF_AUTO_FD int fd = -1;
	ssize_t got;
	const char *line;
	int code = pf_proc_open(pid, "status", &fd, NULL);

	if (code < 0)
		return code;
	got = read(fd, text, sizeof(text) - 1);
	if (got < 0)
		return -errno;
	text[got] = '\0';
	for (line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, name, strlen(name)) == 0) {
			*out = strtoull(line + strlen(name), NULL, base);
			return 0;
		}
	}
	return -ENOENT;
}
