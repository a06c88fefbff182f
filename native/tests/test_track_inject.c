// SPDX-License-Identifier: Apache-2.0
/* The injected userfaultfd(2): the target does not notice, whatever it is doing, and whenever the
 * injecting process is killed. */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"
#include "inject.h"
#include "podferry/track.h"
#include "track_target.h"

#if defined(__x86_64__)

#include "escape.h"
#include "interrupted.h"
#include "maps.h"

#define INJECTIONS    15
#define KILLS         40
#define KILL_RANGE_US 4000

static void inject(struct target *target)
{
	struct pf_error err = {0};
	uint64_t stopped_ns = 0;
	int fd = -1;
	int code = pf_inject_userfaultfd(target->pid, &fd, &stopped_ns, &err);

	if (code == -EPERM || code == -ENOSYS) {
		printf("not allowed here: %s\n", err.message);
		kill(target->pid, SIGKILL);
		exit(PF_TEST_SKIP);
	}
	if (code < 0)
		fprintf(stderr, "%s\n", err.message);
	CHECK_EQUAL(code, 0);
	CHECK(fd >= 0);
	CHECK(stopped_ns > 0);
	close(fd);
}

static void a_target_does_not_notice(enum target_works work)
{
	struct target target;

	target_start(&target, work);
	for (int i = 0; i < INJECTIONS; i++) {
		inject(&target);
		usleep((useconds_t)(rand() % 3000));
	}
	CHECK_EQUAL(target_userfaultfds(&target), 0);
	target_end(&target);
}

/* A signal that comes in the middle is neither lost nor early. */
static void a_signal_arrives(void)
{
	struct target target;

	target_start(&target, TARGET_SPINS);
	kill(target.pid, SIGSTOP);
	CHECK_EQUAL(waitpid(target.pid, NULL, WUNTRACED), target.pid);
	inject(&target);
	usleep(20000); /* it is still stopped, as it was before */
	uint64_t turns = target.report->turns;
	usleep(20000);
	CHECK_EQUAL(target.report->turns, turns);
	kill(target.pid, SIGCONT);
	target_end(&target);
}

enum moments {
	BEFORE_ANYTHING,
	PREPARED,
	SENT_TO_OPEN,
	SIGNALS_BLOCKED,
	ENTERING_OPEN,
	OPENED,
	SENT_TO_CLOSE,
	ENTERING_CLOSE,
	CLOSED,
	BACK_AT_THE_TRAP,
	MASK_RESTORED,
	MOMENTS,
};

static void die_if(enum moments now, enum moments moment)
{
	if (now == moment)
		kill(getpid(), SIGKILL);
}

#define STEP(call)                                                                                 \
	do {                                                                                       \
		if ((call) < 0)                                                                    \
			_exit(4);                                                                  \
	} while (0)

/* The steps of pf_inject_userfaultfd, with death between any two. */
static void inject_until(pid_t pid, const struct pf_gadgets *gadgets, uint64_t at,
			 enum moments moment)
{
	struct pf_escape escape = {.gadgets = *gadgets, .at = at};
	struct pf_remote remote = PF_REMOTE_NONE;
	struct user_regs_struct regs, resumed, restarted, next;
	uint64_t sigmask;
	bool entry;

	STEP(pf_remote_stop(&remote, pid, false, NULL));
	STEP(pf_remote_get_regs(&remote, &regs, NULL));
	STEP(pf_remote_get_sigmask(&remote, &sigmask, NULL));
	resumed = pf_interrupted_resumed(&remote, &regs);
	restarted = pf_interrupted_restarted(&resumed);
	die_if(BEFORE_ANYTHING, moment);
	STEP(pf_escape_prepare(&escape, &remote, &restarted, sigmask, NULL));
	die_if(PREPARED, moment);
	next = pf_escape_opening(&escape, &restarted, 1);
	STEP(pf_remote_set_regs(&remote, &next, NULL));
	die_if(SENT_TO_OPEN, moment);
	STEP(pf_remote_set_sigmask(&remote, ~0ULL, NULL));
	die_if(SIGNALS_BLOCKED, moment);
	STEP(pf_remote_run_to_syscall(&remote, &entry, NULL));
	die_if(ENTERING_OPEN, moment);
	STEP(pf_remote_run_to_syscall(&remote, &entry, NULL));
	die_if(OPENED, moment);
	STEP(pf_remote_get_regs(&remote, &next, NULL));
	next = pf_escape_closing(&escape, &restarted, (int)next.rax);
	STEP(pf_remote_set_regs(&remote, &next, NULL));
	die_if(SENT_TO_CLOSE, moment);
	STEP(pf_remote_run_to_syscall(&remote, &entry, NULL));
	die_if(ENTERING_CLOSE, moment);
	STEP(pf_remote_run_to_syscall(&remote, &entry, NULL));
	die_if(CLOSED, moment);
	STEP(pf_remote_run_to_trap(&remote, NULL));
	die_if(BACK_AT_THE_TRAP, moment);
	STEP(pf_remote_set_sigmask(&remote, sigmask, NULL));
	die_if(MASK_RESTORED, moment);
	_exit(5);
}

static uint64_t main_stack(pid_t pid)
{
	struct pf_vmas vmas = {0};
	uint64_t start = 0;
	int fd;

	CHECK_EQUAL(pf_proc_open(pid, "maps", &fd, NULL), 0);
	CHECK_EQUAL(pf_vmas_read(&vmas, fd, NULL), 0);
	for (size_t i = 0; i < vmas.count; i++)
		if (vmas.list[i].kind == PF_MAPPING_MAIN_STACK)
			start = vmas.list[i].start;
	close(fd);
	pf_vmas_free(&vmas);
	CHECK(start);
	return start;
}

/* Waits that the kernel ends with EINTR at any stop, SIGSTOP's too; who dies before the registers
 * are ours cannot put that right. */
static bool kernel_says_interrupted(enum target_works work)
{
	return work == TARGET_WAITS_EPOLL || work == TARGET_WAITS_EVENT ||
	       work == TARGET_RECEIVES || work == TARGET_WAITS_SIGNAL;
}

static void death_at_any_moment_harms_nobody(enum target_works work)
{
	struct target target;
	struct pf_gadgets gadgets;
	uint64_t at;

	target_start(&target, work);
	at = main_stack(target.pid);
	CHECK_EQUAL(pf_gadgets_find(target.pid, &gadgets, NULL), 0);
	for (int moment = kernel_says_interrupted(work) ? SENT_TO_OPEN : 0; moment < MOMENTS;
	     moment++) {
		int status = 0;
		pid_t child = fork();

		if (child == 0)
			inject_until(target.pid, &gadgets, at, (enum moments)moment);
		CHECK_EQUAL(waitpid(child, &status, 0), child);
		if (!WIFSIGNALED(status))
			fprintf(stderr, "moment %d ended with status %d\n", moment, status);
		CHECK(WIFSIGNALED(status));
		target_expect_progress(&target);
		CHECK_EQUAL(target_userfaultfds(&target), 0);
	}
	target_end(&target);
}

static void random_kills_harm_nobody(enum target_works work)
{
	struct target target;

	target_start(&target, work);
	for (int i = 0; i < KILLS; i++) {
		pid_t child = fork();

		if (child == 0)
			for (;;) {
				struct pf_tracker *tracker;
				struct pf_round round;

				if (pf_tracker_open(&tracker, target.pid, PF_TRACKER_WP_ASYNC,
						    NULL) < 0)
					_exit(4);
				pf_tracker_round(tracker, &round, NULL);
				pf_tracker_close(tracker);
			}
		usleep((useconds_t)(rand() % KILL_RANGE_US));
		kill(child, SIGKILL);
		int status = 0;

		CHECK_EQUAL(waitpid(child, &status, 0), child);
		CHECK(WIFSIGNALED(status));
	}
	target_expect_progress(&target);
	CHECK_EQUAL(target_userfaultfds(&target), 0);
	target_end(&target);
}

int main(void)
{
	srand(7);
	for (int work = 0; work < TARGET_WORKS; work++)
		a_target_does_not_notice((enum target_works)work);
	a_signal_arrives();
	for (int work = 0; work < TARGET_WORKS; work++)
		death_at_any_moment_harms_nobody((enum target_works)work);
	random_kills_harm_nobody(TARGET_SPINS);
	random_kills_harm_nobody(TARGET_CALLS);
	random_kills_harm_nobody(TARGET_WAITS_FUTEX);
	return 0;
}

#else

int main(void)
{
	return PF_TEST_SKIP;
}

#endif
