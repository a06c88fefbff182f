// SPDX-License-Identifier: Apache-2.0
// A program that uses much of what a kernel keeps for a process, and verifies itself all the time.
//
//     busy PORT [MEBIBYTES]
//
// A line sent to PORT is answered with
//     <the line> rounds=<least rounds of any part> errors=<count> pause_ms=<its longest pause>
//     timer=<expirations> signals=<count> first=<the first error, or ->
// Each part goes through rounds; a part that hangs shows by rounds that stay.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum part { CLOCK, PIPES, SHARED, FILES, MEMORY, SIGNALS, SLEEPS, LOCKS, PARTS };

enum { TICK_NS = 5000000, SIGNAL_NS = 10000000, SHARED_WORDS = 4096, RECORD_BYTES = 64 };

struct shared {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t asked;    // the parent's generation
	uint64_t answered; // the child's
	uint64_t words[SHARED_WORDS];
};

static atomic_ullong rounds[PARTS];
static atomic_ullong errors, expirations, signals_seen;
static atomic_llong longest_pause_ns;
static char first_error[200] = "-";
static pthread_mutex_t first_lock = PTHREAD_MUTEX_INITIALIZER;
static size_t block_words;

__attribute__((format(printf, 1, 2))) static void wrong(const char *format, ...)
{
	pthread_mutex_lock(&first_lock);
	if (atomic_fetch_add(&errors, 1) == 0) {
		va_list values;
		va_start(values, format);
		vsnprintf(first_error, sizeof(first_error), format, values);
		va_end(values);
		for (char *c = first_error; *c; c++)
			if (*c == ' ' || *c == '\n')
				*c = '_';
	}
	pthread_mutex_unlock(&first_lock);
}

static void give_up(const char *what)
{
	perror(what);
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static uint64_t mix(uint64_t value)
{
	value ^= value >> 33;
	value *= 0xff51afd7ed558ccdULL;
	value ^= value >> 33;
	return value;
}

// A timerfd that must go on ticking; the clock must never step back.
static _Noreturn void *clock_part(void *unused)
{
	(void)unused;
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	struct itimerspec every = {.it_interval.tv_nsec = TICK_NS, .it_value.tv_nsec = TICK_NS};
	if (timer < 0 || timerfd_settime(timer, 0, &every, NULL) < 0)
		give_up("timerfd");
	int64_t last = now_ns();
	for (;;) {
		uint64_t times;
		if (read(timer, &times, sizeof(times)) != sizeof(times)) {
			if (errno != EINTR)
				wrong("timerfd: %m");
			continue;
		}
		int64_t now = now_ns();
		if (now < last)
			wrong("the clock went back by %lld ns", (long long)(last - now));
		int64_t pause = now - last - TICK_NS;
		if (pause > atomic_load(&longest_pause_ns))
			atomic_store(&longest_pause_ns, pause);
		last = now;
		atomic_fetch_add(&expirations, times);
		atomic_fetch_add(&rounds[CLOCK], 1);
	}
}

// Numbers go through a pipe to another thread, and are answered through an eventfd.
static int numbers[2], credit;

static _Noreturn void *writing_part(void *unused)
{
	(void)unused;
	for (uint64_t n = 0;; n++) {
		uint64_t record[2] = {n, mix(n)}, given;
		// In two halves: what is in the pipe at the sleep is half a record more often than not.
		if (write(numbers[1], record, 8) != 8 || write(numbers[1], record + 1, 8) != 8)
			wrong("pipe write: %m");
		if (n % 64 == 63 && read(credit, &given, sizeof(given)) != sizeof(given))
			wrong("eventfd: %m");
	}
}

static _Noreturn void *reading_part(void *unused)
{
	(void)unused;
	for (uint64_t n = 0;; n++) {
		uint64_t record[2], one = 1;
		for (size_t have = 0; have < sizeof(record);) {
			ssize_t got =
				read(numbers[0], (char *)record + have, sizeof(record) - have);
			if (got > 0)
				have += (size_t)got;
			else if (errno != EINTR)
				wrong("pipe read: %m");
		}
		if (record[0] != n || record[1] != mix(n)) {
			wrong("pipe gave %llu for %llu", (unsigned long long)record[0],
			      (unsigned long long)n);
			n = record[0];
		}
		if (n % 64 == 63) {
			if (write(credit, &one, sizeof(one)) != sizeof(one))
				wrong("eventfd: %m");
			atomic_fetch_add(&rounds[PIPES], 1);
			usleep(500);
		}
	}
}

// A child process inverts what the parent has written into memory that both share.
static struct shared *shared;

static _Noreturn void child(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pthread_mutex_lock(&shared->lock);
	for (;;) {
		while (shared->answered == shared->asked)
			pthread_cond_wait(&shared->changed, &shared->lock);
		for (int i = 0; i < SHARED_WORDS; i++)
			shared->words[i] = ~shared->words[i];
		shared->answered = shared->asked;
		pthread_cond_broadcast(&shared->changed);
	}
}

static _Noreturn void *sharing_part(void *unused)
{
	(void)unused;
	for (uint64_t n = 1;; n++) {
		pthread_mutex_lock(&shared->lock);
		for (uint64_t i = 0; i < SHARED_WORDS; i++)
			shared->words[i] = mix(n * SHARED_WORDS + i);
		shared->asked = n;
		pthread_cond_broadcast(&shared->changed);
		while (shared->answered != n)
			pthread_cond_wait(&shared->changed, &shared->lock);
		for (uint64_t i = 0; i < SHARED_WORDS; i++)
			if (shared->words[i] != ~mix(n * SHARED_WORDS + i))
				wrong("shared word %llu of generation %llu", (unsigned long long)i,
				      (unsigned long long)n);
		pthread_mutex_unlock(&shared->lock);
		atomic_fetch_add(&rounds[SHARED], 1);
		usleep(1000);
	}
}

// One file grows and is read back at its own offset; one is deleted, one is mapped.
static _Noreturn void *file_part(void *unused)
{
	(void)unused;
	char path[] = "/tmp/busy-XXXXXX", gone_path[] = "/tmp/gone-XXXXXX",
	     record[RECORD_BYTES + 1];
	int kept = mkostemp(path, O_APPEND), reader = open(path, O_RDONLY);
	int gone = mkstemp(gone_path);
	char map_path[] = "/tmp/map-XXXXXX";
	int map_fd = mkstemp(map_path);
	if (kept < 0 || reader < 0 || gone < 0 || map_fd < 0 || ftruncate(map_fd, 4096) < 0 ||
	    write(gone, "kept", 4) != 4 || unlink(gone_path) < 0)
		give_up("files");
	uint64_t *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
	if (mapped == MAP_FAILED)
		give_up("mapped file");
	for (uint64_t n = 0;; n++) {
		char want[RECORD_BYTES + 1], still[4];
		snprintf(want, sizeof(want), "%-*llu\n", RECORD_BYTES - 1, (unsigned long long)n);
		if (write(kept, want, RECORD_BYTES) != RECORD_BYTES)
			wrong("append: %m");
		if (read(reader, record, RECORD_BYTES) != RECORD_BYTES ||
		    memcmp(record, want, RECORD_BYTES))
			wrong("record %llu of the file", (unsigned long long)n);
		if (pread(gone, still, 4, 0) != 4 || memcmp(still, "kept", 4))
			wrong("the deleted file is not what it was");
		uint64_t back;
		mapped[n % 512] = mix(n);
		if (pread(map_fd, &back, 8, (off_t)(n % 512 * 8)) != 8 || back != mix(n))
			wrong("the mapped file and its file differ");
		if (n % 4096 == 4095) { // it must not grow for ever
			if (ftruncate(kept, 0) < 0 || lseek(reader, 0, SEEK_SET) < 0)
				wrong("truncate: %m");
		}
		atomic_fetch_add(&rounds[FILES], 1);
		usleep(2000);
	}
}

// A block of memory with a known content: page by page, checked and given its next content.
static _Noreturn void *memory_part(void *memory)
{
	uint64_t *words = memory;
	for (uint64_t n = 0;; n++) {
		for (size_t i = 0; i < block_words; i++) {
			if (words[i] != mix(i + n))
				wrong("word %zu of the block in round %llu", i,
				      (unsigned long long)n);
			words[i] = mix(i + n + 1);
			if (i % 65536 == 65535)
				usleep(2000);
		}
		atomic_fetch_add(&rounds[MEMORY], 1);
		usleep(1000);
	}
}

// A POSIX timer's signals arrive at a signalfd.
static _Noreturn void *signal_part(void *given)
{
	int fd = *(int *)given;
	timer_t timer;
	struct sigevent by_signal = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
	struct itimerspec every = {.it_interval.tv_nsec = SIGNAL_NS, .it_value.tv_nsec = SIGNAL_NS};
	if (timer_create(CLOCK_MONOTONIC, &by_signal, &timer) < 0 ||
	    timer_settime(timer, 0, &every, NULL) < 0)
		give_up("timer_create");
	for (;;) {
		struct signalfd_siginfo info;
		if (read(fd, &info, sizeof(info)) != sizeof(info)) {
			if (errno != EINTR)
				wrong("signalfd: %m");
			continue;
		}
		if (info.ssi_signo != (uint32_t)SIGRTMIN)
			wrong("signal %u", info.ssi_signo);
		atomic_fetch_add(&signals_seen, 1);
		atomic_fetch_add(&rounds[SIGNALS], 1);
	}
}

// No handler is ever called here, so nothing but a sleep could interrupt these calls.
static _Noreturn void *sleep_part(void *unused)
{
	(void)unused;
	for (;;) {
		struct timespec span = {.tv_nsec = 20000000};
		int64_t before = now_ns();
		if (nanosleep(&span, NULL) < 0)
			wrong("nanosleep: %m");
		if (poll(NULL, 0, 20) != 0)
			wrong("poll: %m");
		if (now_ns() - before < 39000000)
			wrong("slept too short: %lld us", (long long)(now_ns() - before) / 1000);
		atomic_fetch_add(&rounds[SLEEPS], 1);
	}
}

// Two threads add under one lock; thread-local storage must stay each thread's own.
static pthread_mutex_t sum_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t sum;
static atomic_ullong added;
static _Thread_local uint64_t mine;

static _Noreturn void *lock_part(void *unused)
{
	(void)unused;
	for (uint64_t n = 1;; n++) {
		pthread_mutex_lock(&sum_lock);
		sum++;
		if (sum != atomic_fetch_add(&added, 1) + 1)
			wrong("the sum under the lock");
		pthread_mutex_unlock(&sum_lock);
		if (++mine != n)
			wrong("thread-local storage");
		atomic_fetch_add(&rounds[LOCKS], 1);
		usleep(1000);
	}
}

static void answer(int connection)
{
	char line[128], said[512];
	ssize_t got = read(connection, line, sizeof(line) - 1);
	if (got <= 0) {
		close(connection);
		return;
	}
	line[got] = 0;
	line[strcspn(line, "\r\n")] = 0;
	unsigned long long least = ~0ULL;
	for (int part = 0; part < PARTS; part++) {
		unsigned long long one = atomic_load(&rounds[part]);
		least = one < least ? one : least;
	}
	pthread_mutex_lock(&first_lock);
	int length = snprintf(
		said, sizeof(said),
		"%s rounds=%llu errors=%llu pause_ms=%.1f timer=%llu signals=%llu first=%s\n", line,
		least, atomic_load(&errors), (double)atomic_load(&longest_pause_ns) / 1e6,
		atomic_load(&expirations), atomic_load(&signals_seen), first_error);
	pthread_mutex_unlock(&first_lock);
	if (write(connection, said, (size_t)length) != length)
		wrong("answer: %m");
}

static _Noreturn void serve(uint16_t port)
{
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	int poller = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
	if (bind(listener, (struct sockaddr *)&here, sizeof(here)) < 0 ||
	    listen(listener, 64) < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) < 0)
		give_up("listen");
	for (;;) {
		if (epoll_wait(poller, &event, 1, 60000) != 1)
			continue;
		if (event.data.fd != listener) {
			answer(event.data.fd);
			continue;
		}
		int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		struct epoll_event more = {.events = EPOLLIN, .data.fd = connection};
		if (connection < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, connection, &more) < 0)
			wrong("accept: %m");
	}
}

static void share(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED)
		give_up("shared memory");
	pthread_mutexattr_t lock;
	pthread_condattr_t changed;
	pthread_mutexattr_init(&lock);
	pthread_mutexattr_setpshared(&lock, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&shared->lock, &lock);
	pthread_condattr_init(&changed);
	pthread_condattr_setpshared(&changed, PTHREAD_PROCESS_SHARED);
	pthread_cond_init(&shared->changed, &changed);
	pid_t pid = fork();
	if (pid < 0)
		give_up("fork");
	if (pid == 0)
		child();
}

int main(int argc, char **argv)
{
	size_t mebibytes = argc > 2 ? strtoul(argv[2], NULL, 10) : 4;
	block_words = mebibytes << 17;
	uint64_t *block = malloc(mebibytes << 20);
	if (argc < 2 || !block || pipe2(numbers, O_CLOEXEC) < 0 || (credit = eventfd(0, 0)) < 0)
		give_up("busy PORT [MEBIBYTES]");
	for (size_t i = 0; i < block_words; i++)
		block[i] = mix(i);
	share();
	sigset_t timer_only;
	sigemptyset(&timer_only);
	sigaddset(&timer_only, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &timer_only, NULL);
	int signals = signalfd(-1, &timer_only, SFD_CLOEXEC);
	signal(SIGPIPE, SIG_IGN);
	struct {
		void *(*run)(void *);
		void *with;
	} parts[] = {{clock_part, NULL},      {writing_part, NULL}, {reading_part, NULL},
		     {sharing_part, NULL},    {file_part, NULL},    {memory_part, block},
		     {signal_part, &signals}, {sleep_part, NULL},   {lock_part, NULL},
		     {lock_part, NULL}};
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, parts[i].run, parts[i].with) != 0)
			give_up("pthread_create");
	}
	serve((uint16_t)strtoul(argv[1], NULL, 10));
}
