/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the container monitor's life: the process that containerd takes for the container. */
#include "monitor.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proc.h"

#define LOG_LIMIT (64 << 10)
#define POLLED    (PR_CONNECTIONS + PR_TRIGGERS + 5)

void pr_monitor_log(struct pr_monitor *monitor, const char *format, ...)
{
	char line[512];
	if (monitor->log < 0 || lseek(monitor->log, 0, SEEK_END) > LOG_LIMIT)
		return;
	int used = snprintf(line, sizeof line, "%llu.%03llu ",
			    (unsigned long long)(pr_now_ns() / 1000000000u),
			    (unsigned long long)(pr_now_ns() / 1000000u % 1000));
	va_list arguments;
	va_start(arguments, format);
	int more = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, arguments);
	va_end(arguments);
	used += more < 0 ? 0 : more;
	if (used > (int)sizeof line - 2)
		used = (int)sizeof line - 2;
	line[used++] = '\n';
	if (write(monitor->log, line, (size_t)used) < 0)
		return;
}

void pr_monitor_enter(struct pr_monitor *monitor, enum pr_state state)
{
	monitor->state = state;
	monitor->since_ns = pr_now_ns();
	monitor->sequence++;
}

int pr_monitor_set_init(struct pr_monitor *monitor, pid_t pid)
{
	struct pr_proc proc;
	int failed = pr_proc_read(pid, &proc);
	if (failed)
		return failed;
	int pidfd = pr_pidfd_open(pid);
	if (pidfd < 0)
		return pidfd;
	if (monitor->init_pidfd >= 0)
		close(monitor->init_pidfd);
	monitor->init_pidfd = pidfd;
	monitor->init = pid;
	monitor->init_start = proc.start;
	return 0;
}

static void end_child(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		continue;
}

void pr_monitor_end_all(struct pr_monitor *monitor, int status)
{
	pr_cgroups_join(&monitor->own, getpid());
	if (monitor->criu > 0)
		kill(monitor->criu, SIGKILL);
	if (monitor->init > 0)
		kill(monitor->init, SIGKILL);
	pr_cgroups_kill(&monitor->container);
	pr_monitor_end(monitor, status);
}

void pr_monitor_end(struct pr_monitor *monitor, int status)
{
	struct pr_event_item event = {
		.from = monitor->state, .to = PR_ENDING, .begun_ns = pr_now_ns()};
	pr_monitor_enter(monitor, PR_ENDING);
	event.sequence = monitor->sequence;
	event.status = status;
	pr_serve_event(monitor, &event, NULL);
	pr_cgroups_thaw(&monitor->container); /* a frozen v1 task does not die */
	end_child(monitor->criu);
	end_child(monitor->pager.pid);
	end_child(monitor->placeholder.pid);
	pr_cgroups_restore_cpu(monitor->cpu_note);
	if (monitor->images[0])
		pr_remove_tree(monitor->images);
	pr_remove_tree(monitor->directory);
	_exit(status);
}

static int exit_status(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void on_init_ended(struct pr_monitor *monitor, int status)
{
	if (pr_claim_changing(monitor) && !monitor->operation.restored) {
		/* The throw-away init. After GO it does not matter any more. */
		monitor->init = 0;
		if (monitor->operation.goal != PR_TO_GO)
			pr_monitor_end_all(monitor, status);
		return;
	}
	if (monitor->state == PR_CHECKPOINTING || monitor->state == PR_WAKING) {
		/* CRIU's doing, or its own: known when CRIU has answered. */
		monitor->operation.init_exited = true;
		monitor->operation.init_status = status;
		return;
	}
	if (monitor->state == PR_HELD || monitor->state == PR_CLAIMED ||
	    monitor->state == PR_STAGED)
		pr_monitor_end_all(monitor, status);
	pr_monitor_end(monitor, status);
}

/* What CRIU has restored, before the monitor calls it its init. */
static void on_made_ended(struct pr_monitor *monitor, int status)
{
	monitor->operation.init_exited = true;
	monitor->operation.init_status = status;
	if (monitor->state == PR_STAGED && monitor->criu > 0)
		kill(monitor->criu, SIGKILL);
}

static void reap(struct pr_monitor *monitor)
{
	struct signalfd_siginfo info[8];
	while (read(monitor->signals, info, sizeof info) > 0)
		continue;
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == monitor->criu)
			pr_operation_criu_ended(monitor, exit_status(status));
		else if (pid == monitor->pager.pid)
			pr_pager_ended(monitor, exit_status(status));
		else if (pid == monitor->placeholder.pid)
			pr_sleep_placeholder_died(monitor);
		else if (pid == monitor->init)
			on_init_ended(monitor, exit_status(status));
		else if (pid == monitor->operation.made)
			on_made_ended(monitor, exit_status(status));
	}
}

static void advance(struct pr_monitor *monitor)
{
	/* Without its shim containerd takes a container for gone, and may never say so to us. One that
   * is awake runs on as under bare runc; one that sleeps must not come back to life. */
	if (monitor->orphaned && monitor->state == PR_ASLEEP)
		pr_monitor_end(monitor, 128 + SIGKILL);
	if (monitor->orphaned && monitor->state == PR_DEPARTED)
		pr_monitor_end(monitor, monitor->agreed);
	/* One answer may start the next change, as a verb that wakes what has just fallen asleep. */
	for (uint64_t before = 0; before != monitor->sequence;) {
		before = monitor->sequence;
		if (monitor->state == PR_CHECKPOINTING)
			pr_sleep_advance(monitor);
		if (monitor->state == PR_WAKING)
			pr_wake_advance(monitor);
	}
}

static int timeout_ms(struct pr_monitor *monitor)
{
	bool changing = monitor->state == PR_CHECKPOINTING || monitor->state == PR_WAKING;
	if (!changing || monitor->operation.answered)
		return -1;
	uint64_t now = pr_now_ns();
	if (now >= monitor->operation.deadline_ns)
		return 0;
	return (int)((monitor->operation.deadline_ns - now) / 1000000u) + 1;
}

static void serve_ready(struct pr_monitor *monitor, const struct pollfd *polled, int count)
{
	for (int i = 0; i < count; i++) {
		for (int j = 0; polled[i].revents && j < PR_CONNECTIONS; j++) {
			struct pr_connection *one = &monitor->connections[j];
			if (one->fd == polled[i].fd) {
				pr_serve_readable(monitor, one);
				break;
			}
		}
	}
}

static void wait_once(struct pr_monitor *monitor)
{
	struct pollfd polled[POLLED];
	int triggers[PR_TRIGGERS], count = 0;
	const char *why = NULL;
	polled[count++] = (struct pollfd){.fd = monitor->signals, .events = POLLIN};
	polled[count++] = (struct pollfd){.fd = monitor->listener, .events = POLLIN};
	bool changing = monitor->state == PR_CHECKPOINTING || monitor->state == PR_WAKING;
	int rpc = changing ? monitor->operation.rpc : -1;
	polled[count++] = (struct pollfd){.fd = rpc, .events = POLLIN};
	polled[count++] = (struct pollfd){.fd = monitor->pager.socket, .events = POLLIN};
	polled[count++] = (struct pollfd){.fd = monitor->shim_pidfd, .events = POLLIN};
	int armed = pr_wake_triggers(monitor, triggers), first = count;
	for (int i = 0; i < armed; i++)
		polled[count++] = (struct pollfd){.fd = triggers[i], .events = POLLIN};
	int connections = count;
	for (int i = 0; i < PR_CONNECTIONS; i++)
		if (monitor->connections[i].fd >= 0)
			polled[count++] =
				(struct pollfd){.fd = monitor->connections[i].fd, .events = POLLIN};
	int ready = poll(polled, (nfds_t)count, timeout_ms(monitor));
	if (ready < 0)
		return;
	if (ready == 0 && changing)
		pr_operation_abort(monitor, "it did not answer in time");
	/* CRIU's answer before its end: an end without an answer is a failure. */
	if (polled[2].revents)
		pr_operation_readable(monitor);
	if (polled[3].revents)
		pr_pager_readable(monitor);
	if (polled[0].revents)
		reap(monitor);
	if (polled[4].revents) {
		close(monitor->shim_pidfd);
		monitor->shim_pidfd = -1;
		monitor->orphaned = true;
	}
	for (int i = first; i < first + armed; i++) {
		if (!polled[i].revents)
			continue;
		pr_wake_begin(monitor, PR_BY_TRIGGER, &why);
		break;
	}
	advance(monitor);
	serve_ready(monitor, polled + connections, count - connections);
	if (polled[1].revents)
		pr_serve_accept(monitor);
	advance(monitor);
}

/* One monitor stays for each container, so while it waits it holds little: pages of the program
 * come again from the page cache when something happens, in some microseconds. */
static void give_pages_back(void)
{
	const ElfW(Phdr) *header = (const void *)getauxval(AT_PHDR); /* NOLINT: the kernel's word */
	unsigned long count = getauxval(AT_PHNUM), page = (unsigned long)sysconf(_SC_PAGESIZE);
	unsigned long base = 0;
	for (unsigned long i = 0; header && i < count; i++)
		if (header[i].p_type == PT_PHDR)
			base = (unsigned long)header - header[i].p_vaddr;
	for (unsigned long i = 0; header && i < count; i++) {
		if (header[i].p_type != PT_LOAD || (header[i].p_flags & PF_W))
			continue;
		unsigned long from = (base + header[i].p_vaddr) & ~(page - 1);
		unsigned long to = base + header[i].p_vaddr + header[i].p_memsz;
		madvise((void *)from, to - from,
			MADV_DONTNEED); /* NOLINT: an address from the headers */
	}
}

void pr_monitor_run(struct pr_monitor *monitor)
{
	for (;;) {
		give_pages_back();
		wait_once(monitor);
	}
}
