// SPDX-License-Identifier: Apache-2.0
/* mutate SEED: does to its own memory whatever a program can do to it, at random and for ever.
 *
 * Two threads map, move, unmap, discard, protect and write under one lock; a third writes without
 * it. Children are forked, write what they have inherited, and end. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE       4096UL
#define SLOTS      24
#define PAGES_MAX  48
#define CALM_PAGES 256
#define HUGE       (2UL << 20)
#define HEAP_PAGES 64
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif

struct slot {
	char *start; /* NULL: free */
	size_t pages;
	int rights;
};

static struct slot slots[SLOTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t state;
static char *calm;
static int source;

static uint64_t draw(uint64_t *from, uint64_t below)
{
	*from ^= *from << 13;
	*from ^= *from >> 7;
	*from ^= *from << 17;
	return *from % below;
}

#define RANDOM(below) draw(&state, below)

static struct slot *any_slot(int used)
{
	for (int i = 0; i < 8; i++) {
		struct slot *slot = &slots[RANDOM(SLOTS)];

		if (!!slot->start == used)
			return slot;
	}
	return NULL;
}

static char *map(void *where, size_t pages, int flags)
{
	char *start = mmap(where, pages * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	return start == MAP_FAILED ? NULL : start;
}

static void write_some(const struct slot *slot)
{
	size_t times = RANDOM(slot->pages) + 1;

	if (!(slot->rights & PROT_WRITE))
		return;
	for (size_t i = 0; i < times; i++) {
		char *page = slot->start + RANDOM(slot->pages) * PAGE;

		if (RANDOM(8) == 0)
			memset(page, 0, PAGE);
		else
			memset(page + RANDOM(PAGE / 2), (int)RANDOM(256), RANDOM(64) + 1);
	}
}

static void fork_a_writer(void)
{
	pid_t child = fork();

	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < SLOTS; i++)
			if (slots[i].start)
				write_some(&slots[i]);
		usleep((useconds_t)RANDOM(3000));
		_exit(0);
	}
	if (RANDOM(2))
		write_some(&(struct slot){calm, CALM_PAGES, PROT_WRITE});
	waitpid(child, NULL, 0);
}

static void in_part(const struct slot *slot, int advice)
{
	size_t first = RANDOM(slot->pages), count = RANDOM(slot->pages - first) + 1;

	madvise(slot->start + first * PAGE, count * PAGE, advice);
	if (advice == MADV_GUARD_INSTALL && RANDOM(4)) {
		madvise(slot->start, slot->pages * PAGE, MADV_GUARD_REMOVE);
	} else if (advice == MADV_GUARD_INSTALL) {
		/* Whoever touches it dies: it is replaced as a whole next time. */
		munmap(slot->start, slot->pages * PAGE);
		map(slot->start, slot->pages, MAP_FIXED);
	}
}

static void cut_the_middle(struct slot *slot)
{
	struct slot *other = any_slot(0);
	size_t first, count;

	if (!other || slot->pages < 3)
		return;
	first = RANDOM(slot->pages - 2) + 1;
	count = RANDOM(slot->pages - first - 1) + 1;
	munmap(slot->start + first * PAGE, count * PAGE);
	*other = (struct slot){slot->start + (first + count) * PAGE, slot->pages - first - count,
			       slot->rights};
	slot->pages = first;
}

static void resize(struct slot *slot)
{
	size_t pages = RANDOM(PAGES_MAX) + 1;
	char *start = mremap(slot->start, slot->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);

	if (start == MAP_FAILED)
		return;
	slot->start = start;
	slot->pages = pages;
}

/* Onto the place of another one, which so is another mapping a moment later. */
static void move_onto(struct slot *slot)
{
	struct slot *other = any_slot(1);

	if (!other || other == slot || other->pages < slot->pages)
		return;
	if (mremap(slot->start, slot->pages * PAGE, slot->pages * PAGE,
		   MREMAP_MAYMOVE | MREMAP_FIXED, other->start) == MAP_FAILED)
		return;
	if (other->pages > slot->pages)
		munmap(other->start + slot->pages * PAGE, (other->pages - slot->pages) * PAGE);
	slot->start = other->start;
	other->start = NULL;
}

static void move_the_pages_only(struct slot *slot)
{
	struct slot *other = any_slot(0);
	char *start;

	if (!other)
		return;
	start = mremap(slot->start, slot->pages * PAGE, slot->pages * PAGE,
		       MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	if (start != MAP_FAILED)
		*other = (struct slot){start, slot->pages, slot->rights};
}

static void protect(struct slot *slot)
{
	static const int choices[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
				      PROT_READ | PROT_WRITE};
	int rights = choices[RANDOM(4)];

	if (mprotect(slot->start, slot->pages * PAGE, rights) == 0)
		slot->rights = rights;
}

static void new_slot(void)
{
	struct slot *slot = any_slot(0);
	size_t pages = RANDOM(PAGES_MAX) + 1;

	if (!slot)
		return;
	slot->start = map(NULL, pages, 0);
	slot->pages = pages;
	slot->rights = PROT_READ | PROT_WRITE;
	if (slot->start)
		write_some(slot);
}

static void heap(void)
{
	char *end = sbrk(0);
	static char *first;

	if (!first)
		first = end;
	if (end - first < (long)(HEAP_PAGES * PAGE) && RANDOM(2)) {
		if (sbrk((intptr_t)(RANDOM(8) + 1) * (intptr_t)PAGE) != (void *)-1)
			memset(end, (int)RANDOM(255) + 1, PAGE);
	} else if (end - first > (long)PAGE) {
		sbrk(-(intptr_t)PAGE);
	}
}

static void huge(void)
{
	static char *region;

	if (!region) {
		char *start = map(NULL, 3 * HUGE / PAGE, 0);

		if (!start)
			return;
		region = (char *)(((uintptr_t)start + HUGE - 1) / HUGE * HUGE);
		madvise(region, HUGE, MADV_HUGEPAGE);
	}
	if (RANDOM(40) == 0)
		madvise(region, HUGE, MADV_DONTNEED);
	region[RANDOM(HUGE)] = (char)RANDOM(256);
}

static void act(void)
{
	struct slot *slot = any_slot(1);
	uint64_t what = RANDOM(34);

	if (!slot || what < 3)
		return new_slot();
	if (what < 12)
		return write_some(slot);
	switch (what) {
	case 12:
		munmap(slot->start, slot->pages * PAGE);
		slot->start = NULL;
		return;
	case 13:
		return cut_the_middle(slot);
	case 14:
	case 15:
		return resize(slot);
	case 16:
	case 17:
		return move_onto(slot);
	case 18:
		return move_the_pages_only(slot);
	case 19:
	case 20:
		return in_part(slot, MADV_DONTNEED);
	case 21:
		return in_part(slot, MADV_FREE);
	case 22:
		if (slot->rights & PROT_WRITE)
			in_part(slot, MADV_GUARD_INSTALL);
		return;
	case 23:
	case 24:
		return protect(slot);
	case 25:
		return fork_a_writer();
	case 26:
		return heap();
	case 27:
	case 28:
		/* The kernel writes; it fails where the rights are missing. */
		if (read(source, slot->start, RANDOM(slot->pages * PAGE) + 1) < 0)
			slot->pages += 0;
		return;
	case 29:
		if (map(slot->start, slot->pages, MAP_FIXED))
			slot->rights = PROT_READ | PROT_WRITE;
		return;
	case 30:
		(void)(RANDOM(2) ? mlock(slot->start, slot->pages * PAGE)
				 : munlock(slot->start, slot->pages * PAGE));
		return;
	case 31:
		in_part(slot, RANDOM(2) ? MADV_MERGEABLE : MADV_HUGEPAGE);
		return;
	default:
		return huge();
	}
}

static void *acting(void *unused)
{
	for (;;) {
		struct timespec pause = {.tv_nsec = 20000};

		pthread_mutex_lock(&lock);
		for (int i = 0; i < 4; i++)
			act();
		pthread_mutex_unlock(&lock);
		nanosleep(&pause, NULL);
	}
	return unused;
}

static void *writing(void *unused)
{
	uint64_t own = state ^ 0x9e3779b97f4a7c15ULL;

	for (;;) {
		for (int i = 0; i < 16; i++)
			calm[draw(&own, CALM_PAGES * PAGE)] = (char)own;
		usleep(200);
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t threads[2];

	state = strtoull(argc > 1 ? argv[1] : "1", NULL, 10) * 2 + 1;
	for (int i = 0; i < 20; i++)
		RANDOM(2);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	source = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	calm = map(NULL, CALM_PAGES, 0);
	if (source < 0 || !calm)
		return 1;
	if (pthread_create(&threads[0], NULL, acting, NULL) ||
	    pthread_create(&threads[1], NULL, writing, NULL))
		return 1;
	puts("ready");
	fflush(stdout);
	acting(NULL);
	return 0;
}
