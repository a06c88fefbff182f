// SPDX-License-Identifier: Apache-2.0
/* Takes over from a pager that was killed at the worst moments, each made by hand: the journal says
 * what the dead one had read, and the userfaultfd is a real one of this process. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "criu_pagemap.h"
#include "pager.h"

#define START ((unsigned char *)0x500000000000)
#define PAGES 64u
#define MORE  16u /* pages behind them that are in no image */
#define PID   7

static char directory[] = "/tmp/pager-resume-XXXXXX";
static char journal_path[64];
static struct pager pager;

static void put_varint(unsigned char **at, uint64_t value)
{
	for (; value > 0x7f; value >>= 7)
		*(*at)++ = (unsigned char)(value | 0x80);
	*(*at)++ = (unsigned char)value;
}

static void put_message(unsigned char **at, const uint64_t *fields, uint32_t count)
{
	unsigned char message[64], *end = message;
	uint32_t bytes;

	for (uint32_t field = 0; field < count; field += 2) {
		put_varint(&end, fields[field] << 3);
		put_varint(&end, fields[field + 1]);
	}
	bytes = (uint32_t)(end - message);
	memcpy(*at, &bytes, 4);
	memcpy(*at + 4, message, bytes);
	*at += 4 + bytes;
}

static void write_file(const char *name, const void *data, size_t bytes)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	CHECK_EQUAL(write(fd, data, bytes), bytes);
	close(fd);
}

/* Page N is full of the byte N + 1. */
static void write_images(void)
{
	static const uint32_t magic[2] = {PF_PAGEMAP_COMMON_MAGIC, PF_PAGEMAP_MAGIC};
	static const uint64_t head[] = {1, 1};
	const uint64_t entry[] = {
		1, (uint64_t)START, 2, PAGES, 4, PF_PAGEMAP_LAZY | PF_PAGEMAP_PRESENT};
	static unsigned char map[256], pages[PAGES * PAGE_BYTES];
	unsigned char *at = map + sizeof(magic);

	memcpy(map, magic, sizeof(magic));
	put_message(&at, head, 2);
	put_message(&at, entry, 6);
	write_file("pagemap-7.img", map, (size_t)(at - map));
	for (unsigned page = 0; page < PAGES; page++)
		memset(pages + page * PAGE_BYTES, (int)page + 1, PAGE_BYTES);
	write_file("pages-1.img", pages, sizeof(pages));
}

static int registered(void)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP};
	struct uffdio_register area = {.range = {(uint64_t)START, (PAGES + MORE) * PAGE_BYTES},
				       .mode = UFFDIO_REGISTER_MODE_MISSING};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		exit(PF_TEST_SKIP);
	CHECK(mmap(START, (PAGES + MORE) * PAGE_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == START);
	CHECK_EQUAL(ioctl(fd, UFFDIO_REGISTER, &area), 0);
	return fd;
}

/* A journal that knows the process, and whether it was restored. */
static struct journal begun(bool restored)
{
	struct journal journal = {0};

	unlink(journal_path);
	CHECK_EQUAL(journal_open(&journal, journal_path, false, NULL), 0);
	journal_next(&journal, JOURNAL_PROCESS, 0)->number = PID;
	journal_commit(&journal);
	if (restored) {
		journal_next(&journal, JOURNAL_RESTORED, 0);
		journal_commit(&journal);
	}
	return journal;
}

/* What podferry-pager --resume does. */
static int resume(int uffd, int connection, struct pf_error *err)
{
	struct given_fd given = {0, uffd};
	int code = pager_init(&pager, err);

	CHECK_EQUAL(code, 0);
	pager.set = ".";
	pager.connection = connection;
	pager.root = images_open_root(directory, err);
	CHECK(pager.root >= 0);
	code = journal_open(&pager.journal, journal_path, true, err);
	if (code == 0)
		code = pager_resume(&pager, &given, uffd >= 0, err);
	if (code == 0)
		code = faults_run(&pager);
	pager_free(&pager);
	return code;
}

static void check_pages(unsigned from, unsigned to)
{
	for (unsigned page = from; page < to; page++)
		CHECK_EQUAL(START[page * PAGE_BYTES + 77], page + 1);
}

static void *touch(void *argument)
{
	unsigned page = (unsigned)(uintptr_t)argument;

	CHECK_EQUAL(START[page * PAGE_BYTES], page < PAGES ? page + 1 : 0);
	return NULL;
}

static void *remove_half(void *argument)
{
	(void)argument;
	CHECK_EQUAL(madvise(START, PAGES / 2 * PAGE_BYTES, MADV_DONTNEED), 0);
	return NULL;
}

/* Reads as the dead pager did, into the record that it did not complete. */
static void read_message(struct journal *journal, int uffd)
{
	struct journal_record *record = journal_next(journal, JOURNAL_EVENT, 0);
	struct pollfd wait = {uffd, POLLIN, 0};

	CHECK_EQUAL(poll(&wait, 1, 20000), 1);
	CHECK_EQUAL(read(uffd, &record->message, sizeof(record->message)), sizeof(record->message));
	journal_close(journal);
}

struct waiting {
	pthread_t toucher;
	int criu;
};

/* The restore goes on only after the page has come. */
static void *finish_restore(void *argument)
{
	const struct waiting *waiting = argument;
	uint32_t finished = CRIU_RESTORE_FINISHED;

	pthread_join(waiting->toucher, NULL);
	CHECK_EQUAL(write(waiting->criu, &finished, 4), 4);
	return NULL;
}

static void a_fault_was_read_and_not_answered(unsigned page)
{
	struct journal journal = begun(false);
	int uffd = registered(), pair[2];
	struct waiting waiting;
	pthread_t restore;

	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	waiting.criu = pair[1];
	CHECK_EQUAL(pthread_create(&waiting.toucher, NULL, touch, (void *)(uintptr_t)page), 0);
	read_message(&journal, uffd);
	CHECK_EQUAL(pthread_create(&restore, NULL, finish_restore, &waiting), 0);
	CHECK_EQUAL(resume(uffd, pair[0], NULL), 0);
	pthread_join(restore, NULL);
	close(pair[1]);
	check_pages(0, PAGES);
}

static void a_removal_was_read_and_not_noted(void)
{
	struct journal journal = begun(true);
	int uffd = registered();
	pthread_t thread;

	CHECK_EQUAL(pthread_create(&thread, NULL, remove_half, NULL), 0);
	read_message(&journal, uffd);
	pthread_join(thread, NULL);
	CHECK_EQUAL(resume(uffd, -1, NULL), 0);
	for (unsigned page = 0; page < PAGES / 2; page++)
		CHECK_EQUAL(START[page * PAGE_BYTES], 0);
	check_pages(PAGES / 2, PAGES);
}

static void pages_were_placed_and_written_since(void)
{
	struct journal journal = begun(true);
	int uffd = registered();
	static unsigned char newer[PAGE_BYTES];
	struct uffdio_copy copy = {
		.dst = (uint64_t)START + 9 * PAGE_BYTES, .src = (uint64_t)newer, .len = PAGE_BYTES};

	journal_close(&journal);
	memset(newer, 0xee, sizeof(newer));
	CHECK_EQUAL(ioctl(uffd, UFFDIO_COPY, &copy), 0);
	CHECK_EQUAL(resume(uffd, -1, NULL), 0);
	CHECK_EQUAL(START[9 * PAGE_BYTES], 0xee);
	check_pages(0, 9);
	check_pages(10, PAGES);
}

static void the_end_of_the_restore_was_read_and_not_noted(void)
{
	struct journal journal = begun(false);
	int uffd = registered(), pair[2];

	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	journal_next(&journal, JOURNAL_INTAKE, 1)->number = CRIU_RESTORE_FINISHED;
	journal_close(&journal);
	CHECK_EQUAL(resume(uffd, pair[0], NULL), 0);
	close(pair[1]);
	check_pages(0, PAGES);
}

static void the_end_of_the_restore_was_not_read(void)
{
	struct journal journal = begun(false);
	uint32_t finished = CRIU_RESTORE_FINISHED;
	int uffd = registered(), pair[2];

	journal_close(&journal);
	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	CHECK_EQUAL(write(pair[1], &finished, 4), 4);
	CHECK_EQUAL(resume(uffd, pair[0], NULL), 0);
	close(pair[1]);
	check_pages(0, PAGES);
}

static void a_process_was_announced_and_not_noted(void)
{
	struct journal journal = {0};
	uint32_t finished = CRIU_RESTORE_FINISHED;
	int uffd = registered(), pair[2];

	unlink(journal_path);
	CHECK_EQUAL(journal_open(&journal, journal_path, false, NULL), 0);
	journal_next(&journal, JOURNAL_INTAKE, 0)->number = PID;
	journal_close(&journal);
	CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	CHECK_EQUAL(write(pair[1], &finished, 4), 4);
	CHECK_EQUAL(resume(uffd, pair[0], NULL), 0);
	close(pair[1]);
	check_pages(0, PAGES);
}

static void refusals(void)
{
	struct pf_error err = {0};
	struct journal journal = begun(true);

	CHECK_EQUAL(resume(-1, -1, &err), -ENOKEY);
	CHECK(strstr(err.message, "kill the container"));
	CHECK_EQUAL(resume(registered(), -1, &err), 0);
	journal.head->overflowed = 1;
	CHECK_EQUAL(resume(-1, -1, &err), -EOVERFLOW);
	journal.head->overflowed = 0;
	journal.head->magic[0] ^= 1;
	CHECK_EQUAL(resume(-1, -1, &err), -EINVAL);
	journal.head->magic[0] ^= 1;
	journal.records[0].kind = 99;
	CHECK_EQUAL(resume(-1, -1, &err), -EINVAL);
	journal.records[0].kind = JOURNAL_EVENT;
	journal.records[0].space = 12;
	CHECK_EQUAL(resume(-1, -1, &err), -EINVAL);
	journal_close(&journal);
	CHECK_EQUAL(truncate(journal_path, 100), 0);
	CHECK_EQUAL(resume(-1, -1, &err), -EINVAL);
	unlink(journal_path);
	CHECK_EQUAL(resume(-1, -1, &err), -ENOENT);
}

/* A journal that is full costs the next pager, not this one. */
static void a_full_journal(void)
{
	struct journal journal = begun(true);

	while (!journal.head->overflowed) {
		journal_next(&journal, JOURNAL_EVENT, 0);
		journal_commit(&journal);
	}
	CHECK(journal.head->count < JOURNAL_RECORDS);
	journal_next(&journal, JOURNAL_EVENT, 0);
	journal_commit(&journal);
	journal_close(&journal);
	CHECK_EQUAL(resume(-1, -1, NULL), -EOVERFLOW);
}

static void remove_all(void)
{
	static const char *const names[] = {"pagemap-7.img", "pages-1.img", "journal"};
	char path[96];

	for (size_t at = 0; at < sizeof(names) / sizeof(*names); at++) {
		snprintf(path, sizeof(path), "%s/%s", directory, names[at]);
		unlink(path);
	}
	rmdir(directory);
}

int main(void)
{
	CHECK(mkdtemp(directory));
	atexit(remove_all);
	snprintf(journal_path, sizeof(journal_path), "%s/journal", directory);
	write_images();
	a_fault_was_read_and_not_answered(5);
	a_fault_was_read_and_not_answered(PAGES + 3);
	a_removal_was_read_and_not_noted();
	pages_were_placed_and_written_since();
	the_end_of_the_restore_was_read_and_not_noted();
	the_end_of_the_restore_was_not_read();
	a_process_was_announced_and_not_noted();
	refusals();
	a_full_journal();
	return 0;
}
