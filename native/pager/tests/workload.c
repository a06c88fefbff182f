// SPDX-License-Identifier: Apache-2.0
/* A process whose memory can be checked: pager_workload MEBIBYTES GO RESULT [dense]
 *
 * It owns a block of MEBIBYTES and a second one of pieces of 4 MiB. What each page holds follows
 * from its number: random bytes, written zeros, the same bytes everywhere, or nothing ever written.
 * Once the file GO exists, threads read the block in scattered order, while the pieces are
 * unmapped, removed, moved, written and inherited. RESULT then says "ok" or what was wrong; GO is
 * looked for again after RESULT has been taken away. */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE        4096u
#define WORDS       (PAGE / 8)
#define THREADS     4
#define PIECE_BYTES (4u << 20)
#define PIECES      24
#define PIECE_PAGES (PIECE_BYTES / PAGE)

static unsigned char *block, *pieces;
static uint64_t block_pages;
static char wrong[256];
static int dense;

static void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void complain(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (!wrong[0])
		vsnprintf(wrong, sizeof(wrong), format, args);
	va_end(args);
}

static uint64_t scramble(uint64_t value)
{
	value += 0x9e3779b97f4a7c15u;
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
	return value ^ (value >> 31);
}

/* What page NUMBER holds at a place; pieces are numbered behind the block. */
static uint64_t word_of(uint64_t number, unsigned at)
{
	switch (number / 3 % 5) {
	case 0:
	case 1:
		return scramble(number * WORDS + at);
	case 2:
		return 0x0123456789abcdefu + at;
	default:
		return 0;
	}
}

static int is_written(uint64_t number)
{
	return dense || number / 3 % 5 != 4;
}

static void write_page(unsigned char *page, uint64_t number)
{
	if (is_written(number))
		for (unsigned at = 0; at < WORDS; at++)
			((uint64_t *)page)[at] = word_of(number, at);
}

static void check_page(const unsigned char *page, uint64_t number, const char *where)
{
	const volatile uint64_t *words = (const volatile uint64_t *)page;

	for (unsigned at = 0; at < WORDS; at++)
		if (words[at] != word_of(number, at)) {
			complain("%s: page %llu at %p word %u is %llx, not %llx", where,
				 (unsigned long long)number, (const void *)page, at,
				 (unsigned long long)words[at],
				 (unsigned long long)word_of(number, at));
			return;
		}
}

static void check_zero(const unsigned char *start, uint64_t bytes, const char *where)
{
	const volatile uint64_t *words = (const volatile uint64_t *)start;

	for (uint64_t at = 0; at < bytes / 8; at++)
		if (words[at]) {
			complain("%s: %p is %llx, not 0", where, (const void *)(words + at),
				 (unsigned long long)words[at]);
			return;
		}
}

static unsigned char *piece(unsigned index)
{
	return pieces + (uint64_t)index * PIECE_BYTES;
}

static uint64_t piece_number(unsigned index)
{
	return block_pages + (uint64_t)index * PIECE_PAGES;
}

static void check_piece(const unsigned char *start, unsigned index, uint64_t from, uint64_t to,
			const char *where)
{
	for (uint64_t page = from; page < to; page++)
		check_page(start + page * PAGE, piece_number(index) + page, where);
}

static unsigned char *map(uint64_t bytes)
{
	unsigned char *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (start == MAP_FAILED)
		exit(3);
	return start;
}

static void *read_scattered(void *argument)
{
	uint64_t thread = (uint64_t)argument, share = block_pages / THREADS;

	for (uint64_t at = 0; at < share; at++) {
		/* An odd factor and a power of two: each page once. */
		uint64_t page = (at * 40503u + thread * 7919u) % share * THREADS + thread;

		check_page(block + page * PAGE, page, "block");
	}
	return NULL;
}

/* Removes one quarter after the other; none may come back, the others must stay. */
static void *remove_parts(void *argument)
{
	(void)argument;
	for (unsigned index = 0; index < 6; index++) {
		unsigned char *start = piece(index);
		uint64_t quarter = PIECE_BYTES / 4;

		for (unsigned part = 0; part < 4; part += 2) {
			if (madvise(start + part * quarter, quarter, MADV_DONTNEED) < 0)
				complain("madvise: %s", strerror(errno));
			check_zero(start + part * quarter, quarter, "removed");
		}
	}
	return NULL;
}

static void *move_pieces(void *argument)
{
	(void)argument;
	for (unsigned index = 6; index < 10; index++) {
		unsigned char *target = map(2 * PIECE_BYTES);
		unsigned char *moved = mremap(piece(index), PIECE_BYTES, 2 * PIECE_BYTES,
					      MREMAP_MAYMOVE | MREMAP_FIXED, target);

		if (moved != target)
			complain("mremap: %s", strerror(errno));
		check_zero(target + PIECE_BYTES, PIECE_BYTES, "grown");
		check_piece(target, index, PIECE_PAGES / 2, PIECE_PAGES, "moved");
		/* Back, smaller, to where it was. */
		moved = mremap(target, 2 * PIECE_BYTES, PIECE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
			       piece(index));
		if (moved != piece(index))
			complain("mremap back: %s", strerror(errno));
		check_piece(moved, index, 0, PIECE_PAGES, "moved back");
		munmap(target, 2 * PIECE_BYTES);
	}
	return NULL;
}

static void map_anew(void)
{
	for (unsigned index = 10; index < 14; index++) {
		munmap(piece(index), PIECE_BYTES / 2);
		if (mmap(piece(index), PIECE_BYTES / 2, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
			complain("mmap: %s", strerror(errno));
		check_zero(piece(index), PIECE_BYTES / 2, "mapped anew");
		check_piece(piece(index), index, PIECE_PAGES / 2, PIECE_PAGES, "beside unmapped");
	}
}

static void protect_parts(void)
{
	/* Splits mappings: a copy over the border is refused by the kernel. */
	for (unsigned index = 14; index < 16; index++)
		for (uint64_t page = 1; page < PIECE_PAGES; page += 7)
			mprotect(piece(index) + page * PAGE, PAGE, PROT_READ);
	for (unsigned index = 14; index < 16; index++) {
		check_piece(piece(index), index, 0, PIECE_PAGES, "protected");
		mprotect(piece(index), PIECE_BYTES, PROT_READ | PROT_WRITE);
	}
}

static pid_t inherit(unsigned index)
{
	pid_t child = fork();

	if (child != 0)
		return child;
	wrong[0] = '\0';
	madvise(piece(index), PIECE_BYTES / 2, MADV_DONTNEED);
	check_zero(piece(index), PIECE_BYTES / 2, "removed by the child");
	for (unsigned other = 16; other < PIECES; other++)
		if (other != index)
			check_piece(piece(other), other, 0, PIECE_PAGES, "inherited");
	memset(piece(16), 0x5a, PIECE_BYTES);
	for (uint64_t page = 0; page < block_pages; page += 61)
		check_page(block + page * PAGE, page, "inherited block");
	if (wrong[0])
		fprintf(stderr, "child: %s\n", wrong);
	_exit(wrong[0] ? 1 : 0);
}

static void round_of_changes(void)
{
	pthread_t threads[THREADS + 2];
	pid_t children[2];
	int status;

	for (uint64_t thread = 0; thread < THREADS; thread++)
		pthread_create(&threads[thread], NULL, read_scattered, (void *)thread);
	pthread_create(&threads[THREADS], NULL, remove_parts, NULL);
	pthread_create(&threads[THREADS + 1], NULL, move_pieces, NULL);
	children[0] = inherit(17);
	map_anew();
	protect_parts();
	children[1] = inherit(18);
	for (unsigned index = 16; index < PIECES; index++)
		check_piece(piece(index), index, 0, PIECE_PAGES, "kept");
	for (unsigned thread = 0; thread < THREADS + 2; thread++)
		pthread_join(threads[thread], NULL);
	for (unsigned child = 0; child < 2; child++)
		if (waitpid(children[child], &status, 0) < 0 || status != 0)
			complain("child %u ended with %#x", child, status);
	/* What was read once must stay; what was removed must not have come back. */
	for (uint64_t page = 0; page < block_pages; page++)
		check_page(block + page * PAGE, page, "block at the end");
	for (unsigned index = 0; index < 6; index++) {
		check_zero(piece(index), PIECE_BYTES / 4, "removed, at the end");
		check_piece(piece(index), index, PIECE_PAGES / 4, PIECE_PAGES / 2,
			    "beside removed");
	}
	for (unsigned index = 10; index < 14; index++)
		check_zero(piece(index), PIECE_BYTES / 2, "mapped anew, at the end");
}

static void write_pieces(void)
{
	for (uint64_t page = 0; page < (uint64_t)PIECES * PIECE_PAGES; page++)
		write_page(pieces + page * PAGE, block_pages + page);
}

static void pause_ms(long milliseconds)
{
	struct timespec time = {.tv_nsec = milliseconds * 1000000};

	nanosleep(&time, NULL);
}

static void say(const char *path, const char *text)
{
	char part[4096];
	FILE *file;

	snprintf(part, sizeof(part), "%s.part", path);
	file = fopen(part, "w");
	if (!file || fputs(text, file) < 0 || fclose(file) < 0 || rename(part, path) < 0)
		exit(4);
}

int main(int argc, char **argv)
{
	if (argc != 4 && argc != 5)
		return 64;
	dense = argc == 5;
	close_range(3, ~0u, 0); /* whatever its starter had open */
	block_pages = strtoull(argv[1], NULL, 10) * (1 << 20) / PAGE;
	block = map(block_pages * PAGE);
	pieces = map((uint64_t)PIECES * PIECE_BYTES);
	for (uint64_t page = 0; page < block_pages; page++)
		write_page(block + page * PAGE, page);
	write_pieces();
	say(argv[3], "ready");
	for (;;) {
		while (access(argv[3], F_OK) == 0 || access(argv[2], F_OK) != 0)
			pause_ms(1);
		round_of_changes();
		say(argv[3], wrong[0] ? wrong : "ok");
	}
}
