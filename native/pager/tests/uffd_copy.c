// SPDX-License-Identifier: Apache-2.0
/* How fast this machine places pages: uffd_copy FILE. Copies FILE, mapped and read in, by plain
 * UFFDIO_COPY of 4 MiB into fresh memory of its own; prints bytes and nanoseconds. */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BATCH ((uint64_t)4 << 20)

static void require(int condition, const char *what)
{
	if (!condition) {
		perror(what);
		exit(1);
	}
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int argc, char **argv)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register area = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	unsigned char *from, *to;
	uint64_t bytes;
	struct stat status;
	int64_t begun;
	int file, uffd;

	if (argc != 2)
		return 64;
	file = open(argv[1], O_RDONLY | O_CLOEXEC);
	require(file >= 0 && fstat(file, &status) == 0, argv[1]);
	bytes = (uint64_t)status.st_size & ~(BATCH - 1);
	from = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
	to = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	require(from != MAP_FAILED && to != MAP_FAILED, "mmap");
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	require(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0, "userfaultfd");
	area.range.start = (uint64_t)to;
	area.range.len = bytes;
	require(ioctl(uffd, UFFDIO_REGISTER, &area) == 0, "UFFDIO_REGISTER");
	begun = now_ns();
	for (uint64_t at = 0; at < bytes; at += BATCH) {
		struct uffdio_copy copy = {
			.dst = (uint64_t)to + at, .src = (uint64_t)from + at, .len = BATCH};

		require(ioctl(uffd, UFFDIO_COPY, &copy) == 0, "UFFDIO_COPY");
	}
	printf("%llu %lld\n", (unsigned long long)bytes, (long long)(now_ns() - begun));
	return 0;
}
