// SPDX-License-Identifier: Apache-2.0
/* Owns the injected userfaultfd(2): stop, call, take the descriptor, close, go on. */
#include "inject.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "error.h"
#include "maps.h"

#if defined(__x86_64__)

#include "escape.h"
#include "interrupted.h"

#define EVERY_SIGNAL  (~0ULL)
#define RED_ZONE      128
#define PAGE_BYTES    4096
#define ESCAPE_PAGES  (PF_ESCAPE_BYTES / PAGE_BYTES)
#define PAGE_IS_THERE (3ULL << 62) /* present or swapped out, in a pagemap */
#define SHADOW_STACK  0x204        /* NT_X86_SHSTK, Linux 6.6 */

/* User-mode-only needs no privilege in the target, and asynchronous write protection does not care:
 * the kernel resolves those faults without asking. */
#define USERFAULTFD_FLAGS (O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)

struct injection {
	pid_t pid;
	int fd;
	uint64_t stopped_ns;
	struct pf_error *err;
	int code;
};

static int find_main_stack(pid_t pid, struct pf_vma *out, struct pf_error *err)
{
	PF_AUTO_VMAS struct pf_vmas vmas = {0};
	PF_AUTO_FD int fd = -1;
	int code = pf_proc_open(pid, "maps", &fd, err);

	if (code == 0)
		code = pf_vmas_read(&vmas, fd, err);
	for (size_t i = 0; code == 0 && i < vmas.count; i++) {
		if (vmas.list[i].kind != PF_MAPPING_MAIN_STACK)
			continue;
		*out = vmas.list[i];
		return 0;
	}
	return code < 0 ? code : pf_fail(err, -ENOTSUP, "process %d has no main stack", pid);
}

static bool are_untouched(int pagemap, uint64_t at)
{
	uint64_t entries[ESCAPE_PAGES];

	if (pread(pagemap, entries, sizeof(entries), (off_t)(at / PAGE_BYTES * 8)) !=
	    sizeof(entries))
		return false;
	for (size_t i = 0; i < ESCAPE_PAGES; i++)
		if (entries[i] & PAGE_IS_THERE)
			return false;
	return true;
}

/* The lowest pages of the main stack, which have never been used, or what is below the stack
 * pointer. The main thread is stopped, and nobody else has business there; other stacks may be
 * small pieces of a heap. */
static int find_room(const struct pf_vma *stack, int pagemap, uint64_t sp, uint64_t *at,
		     struct pf_error *err)
{
	bool inside = sp >= stack->start && sp <= stack->end;
	uint64_t below = inside ? (sp - RED_ZONE - PF_ESCAPE_BYTES) & ~63ULL : 0;

	if (stack->end - stack->start >= PF_ESCAPE_BYTES && are_untouched(pagemap, stack->start) &&
	    (!inside || below >= stack->start)) {
		*at = stack->start;
		return 0;
	}
	if (inside && below >= stack->start) {
		*at = below;
		return 0;
	}
	return pf_fail(err, -ENOTSUP, "the main stack has no room for a way back");
}

static int run_call(struct pf_remote *remote, const struct user_regs_struct *regs, long *result,
		    struct pf_error *err)
{
	struct user_regs_struct after;
	bool entry = true;
	int code = pf_remote_set_regs(remote, regs, err);

	/* Signals come when everything is restored; without us the frame restores the mask. */
	if (code == 0)
		code = pf_remote_set_sigmask(remote, EVERY_SIGNAL, err);
	for (int i = 0; code == 0 && entry && i < 2; i++)
		code = pf_remote_run_to_syscall(remote, &entry, err);
	if (code == 0)
		code = pf_remote_get_regs(remote, &after, err);
	if (code == 0)
		*result = (long)after.rax;
	return code;
}

/* Between the two calls the process has a descriptor that it does not know. */
static int open_and_take(struct injection *job, struct pf_remote *remote, int pidfd,
			 const struct pf_escape *escape, const struct user_regs_struct *regs)
{
	struct user_regs_struct opening = pf_escape_opening(escape, regs, USERFAULTFD_FLAGS);
	struct user_regs_struct closing;
	long opened = -1, closed;
	int code = run_call(remote, &opening, &opened, job->err);

	if (code < 0)
		return code;
	if (opened < 0)
		return pf_fail(job->err, (int)opened, "userfaultfd in process %d: %s", job->pid,
			       strerror((int)-opened));
	job->fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)opened, 0);
	if (job->fd < 0)
		code = pf_fail_errno(job->err, "pidfd_getfd from process %d", job->pid);
	closing = pf_escape_closing(escape, regs, (int)opened);
	if (run_call(remote, &closing, &closed, code < 0 ? NULL : job->err) < 0 || code < 0)
		return code < 0 ? code : -EIO;
	return 0;
}

static int inject(struct injection *job, struct pf_remote *remote, int pidfd, int pagemap,
		  const struct pf_vma *stack, struct pf_escape *escape)
{
	struct user_regs_struct regs, resumed, restarted;
	uint64_t sigmask, shadow_stack;
	struct iovec part = {&shadow_stack, sizeof(shadow_stack)};
	int code, restored;

	code = pf_remote_get_regs(remote, &regs, job->err);
	if (code == 0)
		code = pf_remote_get_sigmask(remote, &sigmask, job->err);
	if (code == 0 && ptrace(PTRACE_GETREGSET, remote->tid, (void *)SHADOW_STACK, &part) == 0)
		code = pf_fail(job->err, -ENOTSUP, "process %d has a shadow stack", job->pid);
	if (code == 0)
		code = find_room(stack, pagemap, regs.rsp, &escape->at, job->err);
	if (code < 0)
		return code;
	resumed = pf_interrupted_resumed(remote, &regs);
	restarted = pf_interrupted_restarted(&resumed);
	code = pf_escape_prepare(escape, remote, &restarted, sigmask, job->err);
	if (code < 0)
		return code;
	code = open_and_take(job, remote, pidfd, escape, &restarted);
	/* In this order: until the last of them the way back is the one on the stack. */
	restored = pf_remote_run_to_trap(remote, code < 0 ? NULL : job->err);
	if (restored == 0)
		restored = pf_remote_set_sigmask(remote, sigmask, code < 0 ? NULL : job->err);
	if (restored == 0)
		restored = pf_remote_set_regs(remote, &resumed, code < 0 ? NULL : job->err);
	if (restored == 0)
		pf_escape_wipe(escape, job->pid); /* now, as it may be where the thread works */
	return code < 0 ? code : restored;
}

static int prepare_and_inject(struct injection *job)
{
	struct pf_escape escape = {.used_bytes = 0};
	struct pf_vma stack;
	struct pf_remote remote = PF_REMOTE_NONE;
	PF_AUTO_FD int pagemap = -1;
	PF_AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, job->pid, 0);
	uint64_t filters = 0, begun;
	int code = 0;

	if (pidfd < 0)
		return pf_fail_errno(job->err, "process %d", job->pid);
	code = pf_gadgets_find(job->pid, &escape.gadgets, job->err);
	if (code == 0)
		code = find_main_stack(job->pid, &stack, job->err);
	if (code == 0)
		code = pf_proc_open(job->pid, "pagemap", &pagemap, job->err);
	if (code < 0)
		return code;
	pf_proc_status(job->pid, "Seccomp:", 10, &filters);
	begun = pf_now_ns();
	code = pf_remote_stop(&remote, job->pid, filters != 0, job->err);
	if (code == 0)
		code = inject(job, &remote, pidfd, pagemap, &stack, &escape);
	pf_remote_release(&remote);
	job->stopped_ns = pf_now_ns() - begun;
	return code;
}

static void *in_thread(void *argument)
{
	struct injection *job = argument;

	job->code = prepare_and_inject(job);
	return NULL;
}

/* In a thread of its own: its end lets the target go, even where it could not be stopped. */
int pf_inject_userfaultfd(pid_t pid, int *fd, uint64_t *stopped_ns, struct pf_error *err)
{
	struct injection job = {.pid = pid, .fd = -1, .err = err};
	pthread_t thread;
	int code = pthread_create(&thread, NULL, in_thread, &job);

	if (code != 0)
		return pf_fail(err, -code, "a thread: %s", strerror(code));
	pthread_join(thread, NULL);
	*stopped_ns = job.stopped_ns;
	if (job.code < 0) {
		if (job.fd >= 0)
			close(job.fd);
		return job.code;
	}
	*fd = job.fd;
	return 0;
}

#else

int pf_inject_userfaultfd(pid_t pid, int *fd, uint64_t *stopped_ns, struct pf_error *err)
{
	(void)fd;
	*stopped_ns = 0;
	return pf_fail(err, -ENOTSUP,
		       "process %d: a system call cannot be injected on this architecture", pid);
}

#endif
