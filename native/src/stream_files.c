// SPDX-License-Identifier: Apache-2.0
/* Owns the sending of files: an image directory's, and parts that grow. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "stream_sender.h"

/* A connection is a file of its own in CRIU's image, and a pod has thousands of them. */
#define SMALL_FRAME_BYTES 16384u
#define TOGETHER_BYTES    32768u /* more would let the other end wait */

static int write_waiting(struct lane *lane, struct pf_error *err)
{
	size_t bytes = lane->waiting;
	int code;

	lane->waiting = 0;
	if (bytes == 0)
		return 0;
	code = pf_channel_write(&lane->channel, lane->packed, bytes, true, err);
	return code < 0 ? lane_listen(lane, code, err) : 0;
}

static int write_frame(struct lane *lane, const struct pf_frame *frame, struct pf_error *err)
{
	size_t bytes = sizeof(*frame) + frame->payload_bytes;
	int code = 0;

	if (bytes > SMALL_FRAME_BYTES || lane->waiting + bytes > TOGETHER_BYTES)
		code = write_waiting(lane, err);
	if (code == 0 && bytes > SMALL_FRAME_BYTES) {
		code = pf_channel_write(&lane->channel, frame, bytes, true, err);
		return code < 0 ? lane_listen(lane, code, err) : 0;
	}
	memcpy(lane->packed + lane->waiting, frame, bytes);
	lane->waiting += bytes;
	return code;
}

/* One frame: BYTES of content already lie in the lane's buffer behind frame and name. */
static int send_frame(struct pf_sender *sender, struct lane *lane, const char *name, uint64_t size,
		      uint64_t offset, size_t bytes, struct pf_error *err)
{
	uint32_t name_bytes = (uint32_t)strlen(name);
	struct pf_frame *frame = (struct pf_frame *)(void *)lane->buffer;
	unsigned char *payload = lane->buffer + sizeof(*frame);
	bool growing = size == PF_STREAM_GROWING;
	int code;

	memcpy(payload, name, name_bytes);
	*frame = (struct pf_frame){.type = PF_FRAME_FILE,
				   .flags = growing ? PF_FRAME_GROWING : 0,
				   .payload_bytes = name_bytes + (uint32_t)bytes,
				   .place = offset,
				   .data = growing ? 0 : size,
				   .name_bytes = name_bytes};
	pf_frame_seal(frame, pf_frame_sum(payload, frame->payload_bytes));
	code = write_frame(lane, frame, err);
	if (code < 0)
		return code;
	pf_table_note_part(&sender->table, name, offset, bytes, frame->payload_sum);
	sender->figures.file_bytes += bytes;
	sender->figures.payload_bytes += sizeof(*frame) + frame->payload_bytes;
	return 0;
}

_Static_assert(LANE_BUFFER_BYTES >= sizeof(struct pf_frame) + PF_FRAME_PAYLOAD_MAX,
	       "a lane's buffer holds any frame");

/* A file's parts take turns: they may arrive in any order. */
static struct lane *lane_for(struct pf_sender *sender, uint64_t offset)
{
	return &sender->lanes[offset / PF_FRAME_FILE_MAX % sender->lane_count];
}

static unsigned char *content_place(const struct lane *lane, const char *name)
{
	return lane->buffer + sizeof(struct pf_frame) + strlen(name);
}

/* Whatever is held back goes out. Gives CODE, or what has failed. */
static int push_all(struct pf_sender *sender, int code, struct pf_error *err)
{
	for (uint32_t at = 0; at < sender->lane_count; at++) {
		struct lane *lane = &sender->lanes[at];

		if (code == 0)
			code = write_waiting(lane, err);
		lane->waiting = 0;
		pf_channel_push(&lane->channel);
	}
	return code;
}

int pf_sender_send_part(struct pf_sender *sender, const char *name, uint64_t size, uint64_t offset,
			const void *data, size_t bytes, struct pf_error *err)
{
	const unsigned char *at = data;
	int code = sender_begin(sender, err);

	if (code < 0)
		return code;
	if (!pf_frame_name_is_plain(name, strlen(name)))
		code = pf_fail(err, -EINVAL, "%s is no plain name of a file", name);
	do {
		size_t piece = bytes < PF_FRAME_FILE_MAX ? bytes : PF_FRAME_FILE_MAX;
		struct lane *lane = lane_for(sender, offset);

		if (code < 0)
			break;
		memcpy(content_place(lane, name), at, piece);
		code = send_frame(sender, lane, name, size, offset, piece, err);
		at += piece;
		offset += piece;
		bytes -= piece;
	} while (bytes > 0);
	code = push_all(sender, code, err);
	return sender_end(sender, code);
}

static int send_file(struct pf_sender *sender, int directory, const char *name, uint64_t *total,
		     struct pf_error *err)
{
	PF_AUTO_FD int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat status;
	uint64_t offset = 0, size;
	int code;

	if (fd < 0 && (errno == ELOOP || errno == ENXIO)) /* a link, a socket */
		return 0;
	if (fd < 0 || fstat(fd, &status) < 0)
		return pf_fail_errno(err, "cannot send the file %s", name);
	if (!S_ISREG(status.st_mode))
		return 0;
	if (!pf_frame_name_is_plain(name, strlen(name)))
		return pf_fail(err, -EINVAL, "%s is no plain name of a file", name);
	size = (uint64_t)status.st_size;
	do {
		struct lane *lane = lane_for(sender, offset);
		size_t piece =
			size - offset < PF_FRAME_FILE_MAX ? size - offset : PF_FRAME_FILE_MAX;
		ssize_t got = pread(fd, content_place(lane, name), piece, (off_t)offset);

		if (got < 0)
			return pf_fail_errno(err, "cannot read the file %s", name);
		if ((size_t)got != piece)
			return pf_fail(err, -EINVAL, "the file %s becomes shorter", name);
		code = send_frame(sender, lane, name, size, offset, piece, err);
		if (code < 0)
			return code;
		offset += piece;
	} while (offset < size);
	*total += size;
	return 0;
}

int pf_sender_send_directory(struct pf_sender *sender, const char *path, uint64_t *file_bytes,
			     struct pf_error *err)
{
	int code = sender_begin(sender, err);
	struct dirent *entry;
	DIR *directory;

	if (code < 0)
		return code;
	*file_bytes = 0;
	directory = opendir(path);
	if (!directory) {
		pf_fail_errno(err, "cannot send the directory %s", path);
		return sender_end(sender, -EINVAL);
	}
	while (code == 0 && (entry = readdir(directory)))
		if (entry->d_name[0] != '.')
			code = send_file(sender, dirfd(directory), entry->d_name, file_bytes, err);
	closedir(directory);
	code = push_all(sender, code, err);
	return sender_end(sender, code);
}
