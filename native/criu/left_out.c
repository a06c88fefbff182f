// SPDX-License-Identifier: Apache-2.0
/* Preloaded into CRIU while it dumps a pod that moves: keeps from it the pages that podferry sends.
 *
 * With --lazy-pages CRIU leaves private memory to somebody else and still takes every page of it
 * into a pipe: 0.5 us each, 150 ms for a GiB, while the pod stands still. Which pages there are it
 * asks the kernel (criu/pagemap-cache.c, pmc_fill). For large anonymous mappings this answers
 * "none", and writes what the kernel has said to a file, by which they are added to CRIU's image
 * again. Whatever is not exactly as expected goes its usual way, slowly and rightly: another
 * question, a small mapping, locked memory, a shadow stack, a file that cannot be written.
 *
 * The page that a thread's stack pointer is in stays CRIU's: it dumps that one itself, as restored
 * threads must not wait for it (criu/mem.c, is_stack). */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <unistd.h>

#include "kernel_abi.h"
#include "left_out.h"

#define EXPORT      __attribute__((visibility("default")))
#define FILE_NAME   "PODFERRY_LEFT_OUT"
#define LEAST_BYTES (4u << 20)
#define PAGE_BYTES  4096u
#define STACKS_MAX  4096u
/* What CRIU asks for: in memory or swapped out, neither a file's nor the zero page. */
#define WANTED (PF_PAGE_IS_PRESENT | PF_PAGE_IS_SWAPPED)
#define UNLESS (PF_PAGE_IS_PFNZERO | PF_PAGE_IS_FILE)

static uint64_t stacks[STACKS_MAX]; /* pages that stack pointers were in when threads stopped */
static int threads[STACKS_MAX];
static size_t stack_count;

/* ---- where threads stood when CRIU stopped them */

static void note_stack(int tid, uint64_t pointer)
{
	for (size_t at = 0; at < stack_count; at++)
		if (threads[at] == tid)
			return; /* later ones are those of CRIU's own code in the thread */
	if (stack_count == STACKS_MAX)
		return;
	threads[stack_count] = tid;
	stacks[stack_count++] = pointer & ~(uint64_t)(PAGE_BYTES - 1);
}

EXPORT long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	pid_t pid = va_arg(arguments, pid_t);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	long peeked, result;
	bool peeks = request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA ||
		     request == PTRACE_PEEKUSER;

	result = syscall(SYS_ptrace, request, pid, address, peeks ? &peeked : data);
	if (result < 0)
		return result;
	if (peeks) {
		errno = 0;
		return peeked;
	}
#ifdef __x86_64__
	if (request == PTRACE_GETREGS)
		note_stack(pid, ((const struct user_regs_struct *)data)->rsp);
	if (request == PTRACE_GETREGSET && (uintptr_t)address == NT_PRSTATUS) {
		const struct iovec *vector = data;

		if (vector->iov_len == sizeof(struct user_regs_struct))
			note_stack(pid, ((const struct user_regs_struct *)vector->iov_base)->rsp);
	}
#endif
	return result;
}

static bool stack_known(int tid)
{
	for (size_t at = 0; at < stack_count; at++)
		if (threads[at] == tid)
			return stack_count < STACKS_MAX;
	return false;
}

/* The lowest stack's page in [START, END), or END. */
static uint64_t next_stack(uint64_t start, uint64_t end)
{
	uint64_t found = end;

	for (size_t at = 0; at < stack_count; at++)
		if (stacks[at] >= start && stacks[at] < found)
			found = stacks[at];
	return found;
}

/* ---- which mappings are left out */

static int pid_of(int pagemap)
{
	char link[64], target[64];
	ssize_t length;
	int pid, end = 0;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", pagemap);
	length = readlink(link, target, sizeof(target) - 1);
	if (length <= 0)
		return 0;
	target[length] = '\0';
	return sscanf(target, "/proc/%d/pagemap%n", &pid, &end) == 1 && end == length ? pid : 0;
}

/* CRIU dumps locked memory itself, and a shadow stack is no plain memory. */
static bool is_plain(int pid)
{
	char path[64], line[256];
	bool plain = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		unsigned long kib;

		if (sscanf(line, "VmLck: %lu", &kib) == 1)
			plain = kib == 0;
		if (strncmp(line, "x86_Thread_features:", 20) == 0 && strstr(line, "shstk"))
			plain = false;
	}
	if (file)
		fclose(file);
	return plain;
}

static bool is_anonymous(const char *name)
{
	return !*name || strcmp(name, "[heap]") == 0 || strncmp(name, "[anon:", 6) == 0;
}

/* Whether a large private anonymous mapping ends where the range does and contains its start. */
static bool is_large_anonymous(int pid, uint64_t start, uint64_t end)
{
	char path[64], line[4352];
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		unsigned long from, to, inode;
		char permissions[8];
		int name = 0;

		line[strcspn(line, "\n")] = '\0';
		if (sscanf(line, "%lx-%lx %7s %*x %*s %lu %n", &from, &to, permissions, &inode,
			   &name) < 4 ||
		    from > start || to != end)
			continue;
		found = permissions[3] == 'p' && inode == 0 && to - from >= LEAST_BYTES &&
			is_anonymous(line + name);
		break;
	}
	if (file)
		fclose(file);
	return found;
}

static bool is_left_out(int pagemap, const struct pf_pm_scan_arg *scan, int *pid)
{
	if (scan->flags || scan->category_anyof_mask != WANTED || scan->category_mask != UNLESS ||
	    scan->category_inverted != UNLESS || scan->end - scan->start < PAGE_BYTES ||
	    !getenv(FILE_NAME))
		return false;
	*pid = pid_of(pagemap);
	return *pid > 0 && stack_known(*pid) && is_plain(*pid) &&
	       is_large_anonymous(*pid, scan->start, scan->end);
}

/* ---- what is told to CRIU, and what is written down */

struct answer {
	struct pf_page_region *told; /* CRIU's own buffer */
	size_t told_count, told_room;
	struct pf_left_out_region *left;
	size_t left_count;
};

static void leave_out(struct answer *answer, uint64_t start, uint64_t end)
{
	if (start < end)
		answer->left[answer->left_count++] = (struct pf_left_out_region){start, end};
}

/* False if CRIU's buffer has no room for another stack. */
static bool divide(struct answer *answer, const struct pf_page_region *region)
{
	uint64_t at = region->start;

	while (at < region->end) {
		uint64_t stack = next_stack(at, region->end);

		leave_out(answer, at, stack);
		if (stack == region->end)
			return true;
		if (answer->told_count == answer->told_room)
			return false;
		answer->told[answer->told_count++] =
			(struct pf_page_region){stack, stack + PAGE_BYTES, region->categories};
		at = stack + PAGE_BYTES;
	}
	return true;
}

static bool write_down(const struct answer *answer, int pid)
{
	struct pf_left_out_head head = {PF_LEFT_OUT_MAGIC, pid, answer->left_count};
	struct iovec parts[] = {{&head, sizeof(head)},
				{answer->left, answer->left_count * sizeof(*answer->left)}};
	ssize_t bytes = (ssize_t)(parts[0].iov_len + parts[1].iov_len);
	int fd = open(getenv(FILE_NAME), O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
	bool done = fd >= 0 && writev(fd, parts, 2) == bytes;

	if (fd >= 0)
		close(fd);
	return done;
}

/* Gives how many regions CRIU is told, or -1: all of them. */
static int keep_back(const struct pf_pm_scan_arg *scan, int count, int pid)
{
	struct pf_page_region *told = (struct pf_page_region *)(uintptr_t)scan->vec; /* NOLINT */
	struct pf_page_region *all = malloc((size_t)count * sizeof(*all) + 1);
	struct answer answer = {.told = told, .told_room = scan->vec_len};
	int result = -1;

	answer.left = calloc((size_t)count + stack_count + 1, sizeof(*answer.left));
	if (all && answer.left) {
		bool fits = true;

		memcpy(all, told, (size_t)count * sizeof(*all));
		/* No page of guard regions is ever dumped; they are asked for apart. */
		for (int at = 0; fits && at < count; at++)
			fits = (all[at].categories & PF_PAGE_IS_GUARD) || divide(&answer, &all[at]);
		if (fits && write_down(&answer, pid))
			result = (int)answer.told_count;
		else
			memcpy(told, all, (size_t)count * sizeof(*all));
	}
	free(all);
	free(answer.left);
	return result;
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);

	int pid = 0;
	bool left_out = request == PF_PAGEMAP_SCAN && is_left_out(fd, argument, &pid);
	long result = syscall(SYS_ioctl, fd, request, argument);

	if (left_out && result > 0) {
		int told = keep_back(argument, (int)result, pid);

		return told < 0 ? (int)result : told;
	}
	return (int)result;
}
