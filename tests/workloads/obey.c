// SPDX-License-Identifier: Apache-2.0
/* obey: does one thing to its memory per line on stdin and answers with a line.
 *
 * Its block of 64 pages is at the address that "where" tells. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE   4096UL
#define PAGES  64UL
#define HUGE   (2UL << 20)
#define BUFFER (8 * PAGE)

static char *block;
static size_t block_pages = PAGES;
static const char *self;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static char *map(size_t bytes)
{
	char *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED)
		die("mmap");
	return start;
}

static uintptr_t write_pages(size_t count)
{
	for (size_t i = 0; i < count; i++)
		block[i * PAGE]++;
	return count;
}

/* Writes one byte in every STEP-th page and tells how many nanoseconds that took. */
static uintptr_t write_every(size_t step)
{
	struct timespec begun, ended;

	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (size_t i = 0; i < block_pages; i += step)
		block[i * PAGE]++;
	clock_gettime(CLOCK_MONOTONIC, &ended);
	return (uintptr_t)((ended.tv_sec - begun.tv_sec) * 1000000000L + ended.tv_nsec -
			   begun.tv_nsec);
}

static uintptr_t map_large(size_t mebibytes)
{
	block_pages = (mebibytes << 20) / PAGE;
	block = map(mebibytes << 20);
	madvise(block, mebibytes << 20, MADV_NOHUGEPAGE);
	return write_every(1);
}

static uintptr_t move_block(void)
{
	char *place = map(PAGES * PAGE);
	char *start =
		mremap(block, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);

	if (start == MAP_FAILED)
		die("mremap");
	block = start;
	return (uintptr_t)block;
}

/* Another mapping at the same place. */
static uintptr_t replace_block(void)
{
	if (mmap(block, PAGES * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		die("mmap");
	return write_pages(3);
}

static uintptr_t use_userfaultfd(void)
{
	static int fd = -1;
	char *watched = map(4 * PAGE);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register request = {
		.range = {(uintptr_t)watched, 4 * PAGE},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &request) < 0)
		die("userfaultfd");
	return (uintptr_t)watched;
}

static uintptr_t kernel_writes(void)
{
	int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	ssize_t got = read(fd, block + 5 * PAGE, 2 * PAGE);

	close(fd);
	return (uintptr_t)got;
}

static uintptr_t leave_a_child(void)
{
	int line[2];
	pid_t child;

	if (pipe(line) < 0)
		die("pipe");
	child = fork();
	if (child == 0) {
		char byte;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(line[1]);
		write_pages(4);
		while (read(line[0], &byte, 1) != 0)
			;
		_exit(0);
	}
	close(line[0]);
	return (uintptr_t)child;
}

/* A child in the same memory, as posix_spawn makes for a moment; its parent's thread waits. */
static void *sharing(void *argument)
{
	if (vfork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		*(volatile pid_t *)argument = getpid();
		for (;;)
			pause();
	}
	return NULL;
}

static uintptr_t share_with_a_child(void)
{
	static volatile pid_t child;
	pthread_t thread;

	child = 0;
	if (pthread_create(&thread, NULL, sharing, (void *)&child) != 0)
		die("pthread_create");
	while (child == 0)
		usleep(1000);
	return (uintptr_t)child;
}

static uintptr_t forbid(uint32_t verdict)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, verdict),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
		die("seccomp");
	return 0;
}

static int ring = -1;
static int ring_file = -1;
static uint8_t *queue, *entries;
static struct io_uring_params setup;
static char *pinned;

static uintptr_t pin_a_buffer(void)
{
	struct iovec part;

	pinned = map(BUFFER);
	memset(pinned, 1, BUFFER);
	part = (struct iovec){pinned, BUFFER};
	ring = (int)syscall(SYS_io_uring_setup, 4, &setup);
	ring_file = memfd_create("source", MFD_CLOEXEC);
	if (ring < 0 || ring_file < 0 || ftruncate(ring_file, BUFFER) < 0)
		return 0; /* not allowed here */
	queue = mmap(NULL, setup.sq_off.array + setup.sq_entries * 4, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	entries = mmap(NULL, setup.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	if (queue == MAP_FAILED || entries == MAP_FAILED ||
	    syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &part, 1) < 0)
		return 0;
	return (uintptr_t)pinned;
}

/* Reads zeros into the pinned buffer: past the page tables. */
static uintptr_t read_past_the_tables(void)
{
	struct io_uring_sqe *entry = (struct io_uring_sqe *)(void *)entries;
	uint32_t *tail = (uint32_t *)(void *)(queue + setup.sq_off.tail);
	uint32_t *array = (uint32_t *)(void *)(queue + setup.sq_off.array);

	*entry = (struct io_uring_sqe){
		.opcode = IORING_OP_READ_FIXED,
		.fd = ring_file,
		.addr = (uintptr_t)pinned + PAGE,
		.len = 2 * PAGE,
	};
	array[*tail & (setup.sq_entries - 1)] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	return (uintptr_t)syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
}

static uintptr_t map_huge(void)
{
	char *start = map(2 * HUGE);

	start = (char *)(((uintptr_t)start + HUGE - 1) / HUGE * HUGE);
	if (madvise(start, HUGE, MADV_HUGEPAGE) < 0)
		die("madvise");
	memset(start, 1, HUGE);
	block = start;
	return (uintptr_t)start;
}

static uintptr_t grow_heap(void)
{
	char *end = sbrk(4 * (intptr_t)PAGE);

	memset(end, 1, 4 * PAGE);
	return (uintptr_t)end;
}

/* What is mapped in other ways, and is not ours: shared, of a file, of huge pages. */
static uintptr_t map_others(void)
{
	char *shared =
		mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("private", MFD_CLOEXEC);
	char *file;

	if (ftruncate(fd, 4 * PAGE) < 0)
		die("memfd");
	file = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (shared == MAP_FAILED || file == MAP_FAILED)
		die("mmap");
	memset(shared, 1, 4 * PAGE);
	memset(file, 1, 4 * PAGE);
	printf("%lx ", (unsigned long)shared);
	return (uintptr_t)file;
}

static uintptr_t obey(const char *order, const char *argument)
{
	size_t number = strtoul(argument, NULL, 10);

	if (strcmp(order, "where") == 0)
		return (uintptr_t)block;
	if (strcmp(order, "write") == 0)
		return write_pages(number);
	if (strcmp(order, "every") == 0)
		return write_every(number);
	if (strcmp(order, "large") == 0)
		return map_large(number);
	if (strcmp(order, "move") == 0)
		return move_block();
	if (strcmp(order, "replace") == 0)
		return replace_block();
	if (strcmp(order, "discard") == 0)
		return (uintptr_t)madvise(block, number * PAGE, MADV_DONTNEED);
	if (strcmp(order, "hide") == 0)
		return (uintptr_t)mprotect(block, PAGES * PAGE, PROT_NONE);
	if (strcmp(order, "lock") == 0)
		return (uintptr_t)mlock(block, PAGES * PAGE);
	if (strcmp(order, "userfaultfd") == 0)
		return use_userfaultfd();
	if (strcmp(order, "read") == 0)
		return kernel_writes();
	if (strcmp(order, "fork") == 0)
		return leave_a_child();
	if (strcmp(order, "share") == 0)
		return share_with_a_child();
	if (strcmp(order, "forbid") == 0)
		return forbid(SECCOMP_RET_ERRNO | EPERM);
	if (strcmp(order, "forbid-to-death") == 0)
		return forbid(SECCOMP_RET_KILL_PROCESS);
	if (strcmp(order, "pin") == 0)
		return pin_a_buffer();
	if (strcmp(order, "fixed") == 0)
		return read_past_the_tables();
	if (strcmp(order, "huge") == 0)
		return map_huge();
	if (strcmp(order, "heap") == 0)
		return grow_heap();
	if (strcmp(order, "others") == 0)
		return map_others();
	if (strcmp(order, "direct") == 0)
		return (uintptr_t)open(argument, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (strcmp(order, "exec") == 0)
		execl(self, self, (char *)NULL);
	die(order);
	return 0;
}

int main(int argc, char **argv)
{
	char line[256];

	(void)argc;
	self = argv[0];
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	block = map(PAGES * PAGE);
	madvise(block, PAGES * PAGE, MADV_NOHUGEPAGE);
	write_pages(PAGES);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		char order[32] = "", argument[200] = "";

		if (sscanf(line, "%31s %199s", order, argument) < 1)
			continue;
		printf("%lx\n", (unsigned long)obey(order, argument));
	}
	return 0;
}
