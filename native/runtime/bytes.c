/* SPDX-License-Identifier: Apache-2.0 */
/* Owns small file and path work; knows nothing of containers. */
#include "bytes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int pr_read_file(const char *path, size_t limit, struct pr_blob *blob)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	struct stat about;
	int failed = fstat(fd, &about) < 0 ? -errno : 0;
	if (!failed && !S_ISREG(about.st_mode))
		failed = -EINVAL;
	if (!failed && (size_t)about.st_size > limit)
		failed = -EFBIG;
	size_t size = failed ? 0 : (size_t)about.st_size;
	char *at = MAP_FAILED;
	if (!failed) {
		at = mmap(NULL, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			  0);
		if (at == MAP_FAILED)
			failed = -errno;
	}
	size_t got = 0;
	while (!failed && got < size) {
		ssize_t n = pread(fd, at + got, size - got, (off_t)got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			failed = -errno;
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	close(fd);
	if (failed) {
		if (at != MAP_FAILED)
			munmap(at, size + 1);
		return failed;
	}
	/* The mapping's length must be known to pr_blob_free: a file that shrank is cut by NULs. */
	blob->at = at;
	blob->bytes = size;
	return 0;
}

void pr_blob_free(struct pr_blob *blob)
{
	if (blob->at)
		munmap(blob->at, blob->bytes + 1);
	blob->at = NULL;
	blob->bytes = 0;
}

ssize_t pr_read_small(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	size_t got = 0;
	ssize_t n = 0;
	while (got + 1 < size) {
		n = read(fd, buffer + got, size - 1 - got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	int failed = n < 0 ? -errno : 0;
	close(fd);
	if (failed)
		return failed;
	buffer[got] = '\0';
	return (ssize_t)got;
}

int pr_write_existing(const char *path, const void *data, size_t bytes)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n;
	do
		n = write(fd, data, bytes);
	while (n < 0 && errno == EINTR);
	int failed = n < 0 ? -errno : (size_t)n == bytes ? 0 : -EIO;
	close(fd);
	return failed;
}

int pr_write_atomic(const char *path, const void *data, size_t bytes, mode_t mode)
{
	char beside[PR_PATH_BYTES];
	int failed = pr_format(beside, sizeof beside, "%s.%d.new", path, (int)getpid());
	if (failed)
		return failed;
	int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return -errno;
	const char *at = data;
	size_t left = bytes;
	while (!failed && left) {
		ssize_t n = write(fd, at, left);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			failed = -errno;
		if (n > 0)
			at += n, left -= (size_t)n;
	}
	if (close(fd) < 0 && !failed)
		failed = -errno;
	if (!failed && rename(beside, path) < 0)
		failed = -errno;
	if (failed)
		unlink(beside);
	return failed;
}

int pr_format(char *out, size_t size, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	int n = vsnprintf(out, size, format, arguments);
	va_end(arguments);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

int pr_mkdirs(const char *path, mode_t mode)
{
	char part[PR_PATH_BYTES];
	size_t length = strlen(path);
	if (length >= sizeof part)
		return -ENAMETOOLONG;
	for (size_t end = 1; end <= length; end++) {
		if (path[end] != '/' && path[end] != '\0')
			continue;
		memcpy(part, path, end);
		part[end] = '\0';
		if (mkdir(part, mode) < 0 && errno != EEXIST)
			return -errno;
	}
	return 0;
}

/* Takes over fd. */
static int empty_directory(int fd, dev_t device, int depth)
{
	DIR *dir = depth > 32 ? NULL : fdopendir(fd);
	if (!dir) {
		close(fd);
		return depth > 32 ? -ELOOP : -errno;
	}
	int failed = 0;
	for (struct dirent *entry; (entry = readdir(dir));) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (unlinkat(fd, entry->d_name, 0) == 0 || errno == ENOENT)
			continue;
		if (errno != EISDIR && errno != EPERM) {
			failed = -errno;
			continue;
		}
		int below =
			openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		struct stat about;
		if (below < 0 || fstat(below, &about) < 0 || about.st_dev != device) {
			failed = below < 0 ? -errno : -EXDEV;
			if (below >= 0)
				close(below);
			continue;
		}
		int inner = empty_directory(below, device, depth + 1);
		if (inner)
			failed = inner;
		if (unlinkat(fd, entry->d_name, AT_REMOVEDIR) < 0 && !failed)
			failed = -errno;
	}
	closedir(dir);
	return failed;
}

int pr_remove_tree(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	struct stat about;
	if (fstat(fd, &about) < 0) {
		int failed = -errno;
		close(fd);
		return failed;
	}
	int failed = empty_directory(fd, about.st_dev, 0);
	if (rmdir(path) < 0 && !failed)
		failed = -errno;
	return failed;
}

long pr_number(const char *text)
{
	long value = 0;
	if (!*text)
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || value > 214748363)
			return -1;
		value = value * 10 + (*text - '0');
	}
	return value;
}

bool pr_plain_name(const char *name)
{
	return *name && strlen(name) < 256 && !strchr(name, '/') && strcmp(name, ".") &&
	       strcmp(name, "..");
}

uint64_t pr_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
