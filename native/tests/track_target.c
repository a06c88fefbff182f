// SPDX-License-Identifier: Apache-2.0
/* Owns the processes that are tracked in the tests: what they do and how they notice harm. */
#include "track_target.h"

#include <dirent.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"

#define WAIT_MS      20
#define WAIT_NS      (WAIT_MS * 1000000LL)
#define PROGRESS     3
#define PATIENCE_S   20
#define SPIN_LENGTH  20000
#define PATTERN_SEED 0x1122334455667788ULL

static const char *const names[TARGET_WORKS] = {
	"spins",
	"sleeps",
	"polls",
	"selects",
	"waits for epoll",
	"waits for an event",
	"waits for a futex",
	"reads",
	"receives",
	"waits for a signal",
	"calls",
};

const char *target_name(enum target_works work)
{
	return names[work];
}

/* The same for what only the extended state has: the upper half of an AVX register. */
static uint64_t wide_register_changes(void)
{
	static uint64_t faults;
#if defined(__x86_64__)
	static uint64_t pattern[4] = {1, 2, PATTERN_SEED, ~PATTERN_SEED};

	if (!__builtin_cpu_supports("avx"))
		return 0;
	__asm__ volatile(
		"vmovups %[pattern], %%ymm3\n"
		"mov %[upper], %%r8\n"
		"mov %[length], %%ecx\n"
		"1: vextractf128 $1, %%ymm3, %%xmm1\n"
		"vmovq %%xmm1, %%rax\n cmp %%r8, %%rax\n jne 2f\n"
		"dec %%ecx\n jne 1b\n jmp 3f\n"
		"2: incq %[faults]\n"
		"3: vzeroupper\n"
		: [faults] "+m"(faults)
		: [length] "i"(SPIN_LENGTH), [pattern] "m"(pattern), [upper] "m"(pattern[2])
		: "rax", "rcx", "r8", "xmm1", "xmm3", "memory", "cc");
#endif
	return faults;
}

static int waits_without_end(enum target_works work)
{
	return work == TARGET_READS || work == TARGET_WAITS_EPOLL;
}

/* 0 if for SPIN_LENGTH turns no register, no SSE register and nothing in the red zone changed. */
static uint64_t registers_change(void)
{
	static uint64_t faults; /* static: no register is left to address a stack with */
#if defined(__x86_64__)
	static uint64_t pattern[2] = {PATTERN_SEED, ~PATTERN_SEED};

	__asm__ volatile("sub $256, %%rsp\n" /* the compiler may use the red zone itself */
			 "mov %[pattern], %%r8\n"
			 "mov %%r8, %%r9\n mov %%r8, %%r10\n mov %%r8, %%r11\n"
			 "mov %%r8, %%r12\n mov %%r8, %%r13\n mov %%r8, %%r14\n mov %%r8, %%r15\n"
			 "mov %%r8, %%rsi\n mov %%r8, %%rdi\n mov %%r8, %%rdx\n mov %%r8, %%rbx\n"
			 "mov %%r8, -64(%%rsp)\n mov %%r8, -128(%%rsp)\n"
			 "movups %[pattern], %%xmm0\n movaps %%xmm0, %%xmm7\n"
			 "movaps %%xmm0, %%xmm15\n"
			 "mov %[length], %%ecx\n"
			 "1:\n"
			 "cmp %%r8, %%r9\n jne 2f\n cmp %%r8, %%r10\n jne 2f\n"
			 "cmp %%r8, %%r11\n jne 2f\n cmp %%r8, %%r12\n jne 2f\n"
			 "cmp %%r8, %%r13\n jne 2f\n cmp %%r8, %%r14\n jne 2f\n"
			 "cmp %%r8, %%r15\n jne 2f\n cmp %%r8, %%rsi\n jne 2f\n"
			 "cmp %%r8, %%rdi\n jne 2f\n cmp %%r8, %%rdx\n jne 2f\n"
			 "cmp %%r8, %%rbx\n jne 2f\n"
			 "cmp %%r8, -64(%%rsp)\n jne 2f\n cmp %%r8, -128(%%rsp)\n jne 2f\n"
			 "movaps %%xmm0, %%xmm1\n pxor %%xmm7, %%xmm1\n"
			 "movaps %%xmm0, %%xmm2\n pxor %%xmm15, %%xmm2\n por %%xmm2, %%xmm1\n"
			 "movq %%xmm1, %%rax\n test %%rax, %%rax\n jne 2f\n"
			 "movq %%xmm15, %%rax\n cmp %%r8, %%rax\n jne 2f\n"
			 "dec %%ecx\n jne 1b\n jmp 3f\n"
			 "2: incq %[faults]\n"
			 "3: add $256, %%rsp\n"
			 : [faults] "+m"(faults)
			 : [length] "i"(SPIN_LENGTH), [pattern] "m"(pattern)
			 : "rax", "rcx", "rdx", "rbx", "rsi", "rdi", "r8", "r9", "r10", "r11",
			   "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm7", "xmm15",
			   "memory", "cc");
#endif
	return faults;
}

/* One wait; gives the system call's result. */
static long wait_once(enum target_works work, int wake, int epoll, int udp)
{
	struct timespec span = {.tv_nsec = WAIT_NS};
	struct pollfd one = {.fd = wake, .events = POLLIN};
	struct epoll_event event;
	static uint32_t word;
	sigset_t set;
	char byte;

	sigemptyset(&set);
	switch (work) {
	case TARGET_SLEEPS:
		return nanosleep(&span, NULL);
	case TARGET_POLLS:
		return poll(&one, 1, WAIT_MS);
	case TARGET_SELECTS:
		return pselect(0, NULL, NULL, NULL, &span, &set);
	case TARGET_WAITS_EPOLL:
		return epoll_wait(epoll, &event, 1, -1) == 1 ? read(wake, &byte, 1) - 1 : -1;
	case TARGET_WAITS_EVENT:
		return epoll_pwait(epoll, &event, 1, WAIT_MS, &set);
	case TARGET_WAITS_FUTEX:
		if (syscall(SYS_futex, &word, FUTEX_WAIT, 0, &span, NULL, 0) < 0 &&
		    errno == ETIMEDOUT)
			return 0;
		return -1;
	case TARGET_READS:
		return read(wake, &byte, 1) - 1;
	case TARGET_RECEIVES:
		if (recv(udp, &byte, 1, 0) < 0 && errno == EAGAIN)
			return 0;
		return -1;
	case TARGET_WAITS_SIGNAL:
		sigaddset(&set, SIGUSR1);
		if (sigtimedwait(&set, NULL, &span) < 0 && errno == EAGAIN)
			return 0;
		return -1;
	default:
		return -1;
	}
}

static long call_a_lot(const int pipes[2])
{
	for (int i = 0; i < 200; i++) {
		uint64_t out = (uint64_t)i * PATTERN_SEED, in = 0;

		if (write(pipes[1], &out, sizeof(out)) != sizeof(out) ||
		    read(pipes[0], &in, sizeof(in)) != sizeof(in) || in != out || getppid() <= 0)
			return -1;
	}
	return 0;
}

static void turn(struct target_report *report, enum target_works work, int wake, int epoll, int udp,
		 const int pipes[2])
{
	uint64_t begun = pf_now_ns();
	long result;

	if (work == TARGET_SPINS)
		result = registers_change() || wide_register_changes() ? -1 : 0;
	else if (work == TARGET_CALLS)
		result = call_a_lot(pipes);
	else
		result = wait_once(work, wake, epoll, udp);
	if (result != 0)
		report->last_errno = errno;
	/* A wait that ends early was interrupted as well; some count in ticks of 4 ms. */
	if (result != 0 || (work != TARGET_SPINS && work != TARGET_CALLS &&
			    !waits_without_end(work) && pf_now_ns() - begun < WAIT_NS * 7 / 10))
		report->faults++;
	else
		report->turns++;
}

static void body(enum target_works work, int wake, struct target_report *report)
{
	struct epoll_event event = {.events = EPOLLIN};
	struct timeval span = {.tv_usec = WAIT_MS * 1000};
	int epoll = epoll_create1(0), udp = socket(AF_UNIX, SOCK_DGRAM, 0), pipes[2];
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, wake, &event) < 0 || pipe(pipes) < 0 ||
	    setsockopt(udp, SOL_SOCKET, SO_RCVTIMEO, &span, sizeof(span)) < 0)
		_exit(3);
	while (!report->may_end)
		turn(report, work, wake, epoll, udp, pipes);
	_exit(report->faults ? 1 : 0);
}

void target_start(struct target *target, enum target_works work)
{
	int wake[2];

	target->work = work;
	target->report = mmap(NULL, sizeof(*target->report), PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(target->report != MAP_FAILED);
	CHECK_EQUAL(pipe(wake), 0);
	target->pid = fork();
	CHECK(target->pid >= 0);
	if (target->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(wake[1]);
		body(work, wake[0], target->report);
	}
	close(wake[0]);
	target->wake = wake[1];
	target_expect_progress(target);
}

void target_expect_progress(struct target *target)
{
	uint64_t wanted = target->report->turns + PROGRESS;
	uint64_t begun = pf_now_ns();

	while (target->report->turns < wanted && !target->report->faults) {
		if (waits_without_end(target->work))
			CHECK_EQUAL(write(target->wake, "x", 1), 1);
		usleep(500);
		if (pf_now_ns() - begun > PATIENCE_S * 1000000000ULL ||
		    waitpid(target->pid, NULL, WNOHANG) != 0) {
			fprintf(stderr, "a target that %s stands still or has ended\n",
				target_name(target->work));
			exit(1);
		}
	}
	if (target->report->faults) {
		fprintf(stderr, "a target that %s was disturbed: %s\n", target_name(target->work),
			strerror(target->report->last_errno));
		exit(1);
	}
}

void target_end(struct target *target)
{
	int status = 0;

	target_expect_progress(target);
	target->report->may_end = 1;
	if (waits_without_end(target->work))
		CHECK_EQUAL(write(target->wake, "x", 1), 1);
	for (uint64_t begun = pf_now_ns(); waitpid(target->pid, &status, WNOHANG) == 0;) {
		usleep(1000);
		CHECK(pf_now_ns() - begun < PATIENCE_S * 1000000000ULL);
	}
	CHECK(WIFEXITED(status));
	CHECK_EQUAL(WEXITSTATUS(status), 0);
	close(target->wake);
	munmap(target->report, sizeof(*target->report));
}

int target_userfaultfds(const struct target *target)
{
	char path[300], name[64];
	const struct dirent *entry;
	int found = 0;
	DIR *list;

	snprintf(path, sizeof(path), "/proc/%d/fd", target->pid);
	list = opendir(path);
	CHECK(list);
	while ((entry = readdir(list))) {
		ssize_t length;

		snprintf(path, sizeof(path), "/proc/%d/fd/%s", target->pid, entry->d_name);
		length = readlink(path, name, sizeof(name) - 1);
		if (length < 0)
			continue;
		name[length] = '\0';
		found += strcmp(name, "anon_inode:[userfaultfd]") == 0;
	}
	closedir(list);
	return found;
}
