// SPDX-License-Identifier: Apache-2.0
/* Runs podferry-pager for a real process with a real userfaultfd, plays CRIU and the monitor, and
 * kills the pager again and again: the process must see the right bytes, whatever it does. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "criu_pagemap.h"
#include "images.h"
#include "protocol.h"

#define PID_IN_IMAGES 7
#define START         ((unsigned char *)0x500000000000)
#define SPARE         ((unsigned char *)0x600000000000)
#define PAGES         8192u
#define EVERY         16u /* of so many pages the last one is not in the images: it is zero */
#define ROUNDS        24
#define MOST_UFFDS    16

static char directory[] = "/tmp/pager-serve-XXXXXX";
static char socket_path[64], journal_path[64];
static uint32_t state = 12345;

static unsigned dice(unsigned sides)
{
	state = state * 1664525u + 1013904223u;
	return (state >> 8) % sides;
}

/* ---- images */

static uint64_t content(unsigned page, unsigned word)
{
	return page % EVERY == EVERY - 1 ? 0 : ((uint64_t)page << 32 | word) * 0x9e3779b97f4a7c15u;
}

static void put(unsigned char **at, const void *data, size_t bytes)
{
	memcpy(*at, data, bytes);
	*at += bytes;
}

static void put_varint(unsigned char **at, uint64_t value)
{
	for (; value > 0x7f; value >>= 7)
		*(*at)++ = (unsigned char)(value | 0x80);
	*(*at)++ = (unsigned char)value;
}

static void put_message(unsigned char **at, const unsigned char *message, uint32_t bytes)
{
	put(at, &bytes, 4);
	put(at, message, bytes);
}

static void write_file(const char *name, const void *data, size_t bytes)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	CHECK_EQUAL(write(fd, data, bytes), bytes);
	close(fd);
}

static void write_images(void)
{
	static const uint32_t magic[2] = {PF_PAGEMAP_COMMON_MAGIC, PF_PAGEMAP_MAGIC};
	unsigned char *map = malloc(1 << 20), *at = map, message[64], *end = message;
	uint64_t *pages = malloc(PAGES * PAGE_BYTES), *word = pages;

	put(&at, magic, sizeof(magic));
	put_varint(&end, 1 << 3);
	put_varint(&end, 1);
	put_message(&at, message, (uint32_t)(end - message));
	for (unsigned page = 0; page < PAGES; page += EVERY) {
		end = message;
		put_varint(&end, 1 << 3);
		put_varint(&end, (uint64_t)START + page * PAGE_BYTES);
		put_varint(&end, 2 << 3);
		put_varint(&end, EVERY - 1);
		put_varint(&end, 4 << 3);
		put_varint(&end, PF_PAGEMAP_LAZY | PF_PAGEMAP_PRESENT);
		put_message(&at, message, (uint32_t)(end - message));
	}
	write_file("pagemap-7.img", map, (size_t)(at - map));
	for (unsigned page = 0; page < PAGES; page++)
		for (unsigned at_word = 0; page % EVERY != EVERY - 1 && at_word < 512; at_word++)
			*word++ = content(page, at_word);
	write_file("pages-1.img", pages, (size_t)((unsigned char *)word - (unsigned char *)pages));
	free(map);
	free(pages);
}

/* ---- the process; it ends with a status of 0 if all it saw was right */

static void check_page(const unsigned char *at, unsigned page)
{
	const volatile uint64_t *words = (const volatile uint64_t *)at;

	for (unsigned word = 0; word < 512; word++)
		if (words[word] != content(page, word)) {
			fprintf(stderr, "page %u word %u at %p: %llx\n", page, word,
				(const void *)at, (unsigned long long)words[word]);
			_exit(1);
		}
}

static void check_pages(const unsigned char *start, unsigned from, unsigned to)
{
	for (unsigned page = from; page < to; page++)
		check_page(start + page * PAGE_BYTES, page);
}

static void check_zero(const unsigned char *start, unsigned from, unsigned to)
{
	for (unsigned page = from; page < to; page++) {
		const volatile uint64_t *words =
			(const volatile uint64_t *)(start + page * PAGE_BYTES);

		for (unsigned word = 0; word < 512; word++)
			if (words[word]) {
				fprintf(stderr, "page %u must be zero\n", page);
				_exit(2);
			}
	}
}

#define EIGHTH (PAGES / 8)

static void *scattered(void *argument)
{
	unsigned thread = (unsigned)(uintptr_t)argument;

	for (unsigned at = 0; at < EIGHTH * 2; at++)
		check_page(START + (at * 409 + thread * 97) % (EIGHTH * 2) * PAGE_BYTES,
			   (at * 409 + thread * 97) % (EIGHTH * 2));
	return NULL;
}

static void live(bool forks)
{
	unsigned char *moved;
	pthread_t threads[2];
	int status = 0;
	pid_t child = 0;

	for (uintptr_t thread = 0; thread < 2; thread++)
		CHECK_EQUAL(pthread_create(&threads[thread], NULL, scattered, (void *)thread), 0);
	for (unsigned page = EIGHTH * 2; page < EIGHTH * 3; page += 32)
		madvise(START + page * PAGE_BYTES, 16 * PAGE_BYTES, MADV_DONTNEED);
	if (forks && (child = fork()) == 0) {
		check_pages(START, EIGHTH * 6, EIGHTH * 7);
		check_zero(START, EIGHTH * 2, EIGHTH * 2 + 16);
		_exit(0);
	}
	moved = mremap(START + EIGHTH * 3 * PAGE_BYTES, EIGHTH * PAGE_BYTES, EIGHTH * PAGE_BYTES,
		       MREMAP_MAYMOVE | MREMAP_FIXED, SPARE);
	if (moved != SPARE)
		_exit(3);
	/* What lies two eighths on moves into the place that has become free. */
	moved = mremap(START + EIGHTH * 5 * PAGE_BYTES, EIGHTH * PAGE_BYTES, EIGHTH * PAGE_BYTES,
		       MREMAP_MAYMOVE | MREMAP_FIXED, START + EIGHTH * 3 * PAGE_BYTES);
	if (moved != START + EIGHTH * 3 * PAGE_BYTES)
		_exit(4);
	munmap(START + EIGHTH * 4 * PAGE_BYTES, EIGHTH / 2 * PAGE_BYTES);
	check_pages(SPARE - EIGHTH * 3 * PAGE_BYTES, EIGHTH * 3, EIGHTH * 4);
	check_pages(START - EIGHTH * 2 * PAGE_BYTES, EIGHTH * 5, EIGHTH * 6);
	check_pages(START, EIGHTH * 4 + EIGHTH / 2, EIGHTH * 5);
	check_pages(START, EIGHTH * 6, PAGES);
	for (unsigned page = EIGHTH * 2; page < EIGHTH * 3; page += 32) {
		check_zero(START, page, page + 16);
		check_pages(START, page + 16, page + 32);
	}
	for (unsigned thread = 0; thread < 2; thread++)
		pthread_join(threads[thread], NULL);
	if (child && (waitpid(child, &status, 0) < 0 || status != 0))
		_exit(5);
	_exit(0);
}

static void send_fd(int socket, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec data = {"", 1};
	struct msghdr header = {.msg_iov = &data,
				.msg_iovlen = 1,
				.msg_control = &control,
				.msg_controllen = sizeof(control)};
	struct cmsghdr *rights = CMSG_FIRSTHDR(&header);

	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
	CHECK_EQUAL(sendmsg(socket, &header, 0), 1);
}

/* Does what CRIU's restore does, to itself. */
static void be_restored(bool forks)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
					     UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMOVE};
	struct uffdio_register area = {.range = {(uint64_t)START, PAGES * PAGE_BYTES},
				       .mode = UFFDIO_REGISTER_MODE_MISSING};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int zombie = -9, pid = PID_IN_IMAGES;
	uint32_t finished = CRIU_RESTORE_FINISHED;
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	int criu = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0)
		_exit(PF_TEST_SKIP);
	CHECK(mmap(START, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == START);
	strcpy(address.sun_path, socket_path);
	CHECK_EQUAL(connect(criu, (struct sockaddr *)&address, sizeof(address)), 0);
	CHECK_EQUAL(send(criu, &zombie, 4, 0), 4);
	CHECK_EQUAL(send(criu, &pid, 4, 0), 4);
	send_fd(criu, uffd);
	CHECK_EQUAL(ioctl(uffd, UFFDIO_REGISTER, &area), 0);
	check_page(START + 3 * PAGE_BYTES, 3); /* served before the restore is complete */
	CHECK_EQUAL(send(criu, &finished, 4, 0), 4);
	close(criu);
	close(uffd);
	live(forks);
}

/* ---- the monitor */

struct monitor {
	int socket, theirs;
	pid_t pager;
	int uffds[MOST_UFFDS];
	int connection;
	bool listening, restored, all_in;
};

static void start_pager(struct monitor *monitor, bool resume)
{
	char monitor_fd[16], connection_fd[16], given[MOST_UFFDS][32];
	const char *argv[16 + 2 * MOST_UFFDS] = {PAGER,       "--images",   directory,
						 "--journal", journal_path, "--monitor-fd",
						 monitor_fd};
	int count = 7;

	snprintf(monitor_fd, sizeof(monitor_fd), "%d", monitor->theirs);
	snprintf(connection_fd, sizeof(connection_fd), "%d", monitor->connection);
	if (resume) {
		argv[count++] = "--resume";
		if (monitor->connection >= 0) {
			argv[count++] = "--connection-fd";
			argv[count++] = connection_fd;
		}
		for (int space = 0; space < MOST_UFFDS; space++)
			if (monitor->uffds[space] >= 0) {
				snprintf(given[space], sizeof(*given), "%d:%d", space,
					 monitor->uffds[space]);
				argv[count++] = "--uffd-fd";
				argv[count++] = given[space];
			}
	}
	monitor->pager = fork();
	CHECK(monitor->pager >= 0);
	if (monitor->pager == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execv(PAGER, (char **)argv);
		_exit(126);
	}
}

static void take_message(struct monitor *monitor)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct monitor_message message;
	struct iovec data = {&message, sizeof(message)};
	struct msghdr header = {.msg_iov = &data,
				.msg_iovlen = 1,
				.msg_control = &control,
				.msg_controllen = sizeof(control)};
	int fd = -1;

	CHECK_EQUAL(recvmsg(monitor->socket, &header, 0), sizeof(message));
	CHECK_EQUAL(message.magic, MONITOR_MAGIC);
	if (CMSG_FIRSTHDR(&header))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof(fd));
	switch (message.type) {
	case MONITOR_LISTENING:
		monitor->listening = true;
		break;
	case MONITOR_CONNECTION:
		monitor->connection = fd;
		break;
	case MONITOR_USERFAULTFD:
		CHECK(message.space < MOST_UFFDS && fd >= 0);
		CHECK_EQUAL(message.pid, PID_IN_IMAGES);
		monitor->uffds[message.space] = fd;
		break;
	case MONITOR_RESTORED:
		monitor->restored = true;
		break;
	case MONITOR_OVER:
		CHECK(message.space < MOST_UFFDS && monitor->uffds[message.space] >= 0);
		close(monitor->uffds[message.space]);
		monitor->uffds[message.space] = -1;
		break;
	case MONITOR_ALL_IN:
		monitor->all_in = true;
		break;
	default:
		CHECK(!"a message of this type");
	}
}

/* Takes messages until FLAG is set or the pager ends; or until there is none, without FLAG. */
static void take_messages(struct monitor *monitor, const bool *flag)
{
	for (;;) {
		struct pollfd wait = {monitor->socket, POLLIN, 0};

		if (flag && *flag)
			return;
		if (poll(&wait, 1, flag ? 20000 : 0) == 0) {
			CHECK(!flag);
			return;
		}
		take_message(monitor);
	}
}

static int end_of(pid_t pid)
{
	int status;

	CHECK_EQUAL(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void pause_us(unsigned microseconds)
{
	struct timespec time = {.tv_nsec = (long)microseconds * 1000};

	nanosleep(&time, NULL);
}

enum { COMPLETE, LOST_A_CHILD };

/* KILLS times the pager dies at some point behind the end of the restore. */
static int round_with(unsigned kills, bool forks)
{
	struct monitor monitor = {.connection = -1};
	int pair[2], status, outcome = COMPLETE;
	pid_t process;

	for (int space = 0; space < MOST_UFFDS; space++)
		monitor.uffds[space] = -1;
	unlink(journal_path);
	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	monitor.socket = pair[0];
	monitor.theirs = pair[1];
	start_pager(&monitor, false);
	take_messages(&monitor, &monitor.listening);
	process = fork();
	CHECK(process >= 0);
	if (process == 0) {
		/* Not what the monitor holds: a process must not keep its own userfaultfd. */
		close(pair[0]);
		close(pair[1]);
		be_restored(forks);
	}
	take_messages(&monitor, &monitor.restored);
	for (; kills > 0 && !monitor.all_in; kills--) {
		pause_us(dice(15000));
		kill(monitor.pager, SIGKILL);
		status = end_of(monitor.pager);
		take_messages(&monitor, NULL);
		if (status == 0)
			break;
		CHECK_EQUAL(status, -SIGKILL);
		start_pager(&monitor, true);
	}
	if (!monitor.all_in) {
		status = end_of(monitor.pager);
		take_messages(&monitor, NULL);
		if (status == 3 && forks) {
			/* Killed between reading of a fork and passing its descriptor on: the
			 * one thing that is lost, and it is noticed. */
			outcome = LOST_A_CHILD;
			kill(process, SIGKILL);
		} else {
			CHECK_EQUAL(status, 0);
			CHECK(monitor.all_in);
		}
	}
	status = end_of(process);
	if (status == PF_TEST_SKIP)
		exit(PF_TEST_SKIP);
	if (outcome == COMPLETE)
		CHECK_EQUAL(status, 0);
	for (int space = 0; space < MOST_UFFDS; space++)
		if (monitor.uffds[space] >= 0) {
			CHECK(outcome != COMPLETE);
			close(monitor.uffds[space]);
		}
	if (monitor.connection >= 0)
		close(monitor.connection);
	close(pair[0]);
	close(pair[1]);
	return outcome;
}

/* CRIU ends before its restore is complete: the pager says so and ends. */
static void given_up(void)
{
	struct monitor monitor = {.connection = -1};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int criu = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), pair[2];

	unlink(journal_path);
	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	monitor.socket = pair[0];
	monitor.theirs = pair[1];
	start_pager(&monitor, false);
	take_messages(&monitor, &monitor.listening);
	strcpy(address.sun_path, socket_path);
	CHECK_EQUAL(connect(criu, (struct sockaddr *)&address, sizeof(address)), 0);
	close(criu);
	CHECK_EQUAL(end_of(monitor.pager), 1);
	close(pair[0]);
	close(pair[1]);
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
	(void)status, (void)kind, (void)walk;
	return remove(path);
}

static void remove_all(void)
{
	nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
	unsigned lost = 0;

	CHECK(mkdtemp(directory));
	atexit(remove_all);
	snprintf(socket_path, sizeof(socket_path), "%s/" CRIU_SOCKET_NAME, directory);
	snprintf(journal_path, sizeof(journal_path), "%s/journal", directory);
	write_images();
	given_up();
	CHECK_EQUAL(round_with(0, true), COMPLETE);
	for (unsigned round = 0; round < ROUNDS; round++)
		lost += round_with(1 + dice(4), round % 4 == 3) == LOST_A_CHILD;
	fprintf(stderr, "%u of %u rounds lost a forked child's descriptor\n", lost, ROUNDS);
	return 0;
}
