/* SPDX-License-Identifier: Apache-2.0 */
/* Owns `create` of a managed container: the monitor's first minute, until containerd has its pid. */
#include "create.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor.h"
#include "proc.h"
#include "report.h"
#include "runc_state.h"
#include "sock.h"

#define PID_LIMIT 32

/* runc's own command line, but for the pid file. */
static char **words_for_runc(const struct pr_call *call, int argc, char **argv,
			     const char *pid_file)
{
	static char joined[PR_PATH_BYTES + 16];
	char **words = calloc((size_t)argc + 3, sizeof *words);
	if (!words || pr_format(joined, sizeof joined, "--pid-file=%s", pid_file))
		return NULL;
	int used = 0;
	bool placed = false;
	for (int i = 0; i < argc; i++) {
		bool option = call->pid_file_at && i == call->pid_file_at;
		if (option && !call->pid_file_joined)
			used--; /* the word before was the option */
		if (option)
			placed = true;
		words[used++] = option ? joined : argv[i];
		if (!call->pid_file_at && !placed && argv[i] == call->verb) {
			words[used++] = joined;
			placed = true;
		}
	}
	return words;
}

static pid_t start_runc(const char *runc, char **words, const sigset_t *mask)
{
	pid_t parent = getpid(), pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	sigprocmask(SIG_SETMASK, mask, NULL);
	words[0] = (char *)(uintptr_t)runc;
	execv(runc, words);
	_exit(127);
}

/* Waits for runc; gives its status, or -1 if the caller has gone away meanwhile. */
static int wait_for_runc(struct pr_monitor *monitor, pid_t runc, int caller)
{
	struct pollfd polled[] = {{.fd = monitor->signals, .events = POLLIN}, {.fd = caller}};
	for (;;) {
		int status;
		pid_t pid;
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			if (pid == runc)
				return WIFSIGNALED(status) ? 128 + WTERMSIG(status)
							   : WEXITSTATUS(status);
		if (poll(polled, 2, -1) < 0 && errno != EINTR)
			return -1;
		struct signalfd_siginfo info;
		if (polled[0].revents && read(monitor->signals, &info, sizeof info) < 0)
			return -1;
		if (!polled[1].revents)
			continue;
		/* containerd ends a create that takes too long by killing the process it has started. */
		kill(runc, SIGKILL);
		waitpid(runc, NULL, 0);
		return -1;
	}
}

/* Only this process may hold the container's pipes besides the container; with a terminal not
 * even this one, as the caller reads its own pipes to the end. */
static void take_stdio(struct pr_monitor *monitor)
{
	for (int i = 0; i < 3; i++)
		monitor->stdio[i] = monitor->terminal ? -1 : fcntl(i, F_DUPFD_CLOEXEC, 10);
}

static void let_stdio_go(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 3 && null >= 0; i++)
		dup2(null, i);
	if (null > 2)
		close(null);
}

static int adopt(struct pr_monitor *monitor, const char *pid_file)
{
	char text[PID_LIMIT];
	struct pr_runc_state known;
	ssize_t bytes = pr_read_small(pid_file, text, sizeof text);
	if (bytes < 0)
		return (int)bytes;
	text[strcspn(text, "\n")] = '\0';
	long pid = pr_number(text);
	if (pid <= 0)
		return -EINVAL;
	int failed = pr_monitor_set_init(monitor, (pid_t)pid);
	if (failed)
		return failed;
	failed = pr_runc_state_read(monitor->runc_state, &known);
	if (failed)
		return failed;
	monitor->container = known.groups;
	monitor->known_to_runc = known.init;
	if (known.init != monitor->init)
		return -ESTALE;
	/* containerd looks up the cgroup of the pid that it is given, once. */
	return pr_cgroups_join(&monitor->container, getpid());
}

static int publish(struct pr_monitor *monitor, const struct pr_call *call)
{
	char text[PID_LIMIT], path[PR_PATH_BYTES];
	snprintf(text, sizeof text, "%d", (int)getpid());
	if (pr_format(path, sizeof path, "%s/pid", monitor->directory))
		return -ENAMETOOLONG;
	int failed = pr_write_atomic(path, text, strlen(text), 0600);
	if (!failed && call->pid_file)
		failed = pr_write_atomic(call->pid_file, text, strlen(text), 0644);
	if (failed)
		return failed;
	monitor->listener = pr_sock_listen(monitor->directory, "control");
	return monitor->listener < 0 ? monitor->listener : 0;
}

static void tell(int caller, int status)
{
	if (write(caller, &status, sizeof status) < 0)
		return;
}

static void undo_create(struct pr_monitor *monitor, const struct pr_call *call, const char *runc)
{
	char *words[] = {(char *)(uintptr_t)runc,
			 (char[]){"--root"},
			 (char *)(uintptr_t)call->root,
			 (char[]){"delete"},
			 (char[]){"--force"},
			 (char *)(uintptr_t)call->id,
			 NULL};
	sigset_t none;
	sigemptyset(&none);
	pr_cgroups_join(&monitor->own, getpid());
	pid_t pid = start_runc(runc, words, &none);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	pr_remove_tree(monitor->directory);
}

static int prepare(struct pr_monitor *monitor, const struct pr_call *call, const char *directory,
		   sigset_t *before)
{
	char path[PR_PATH_BYTES];
	sigset_t all;
	for (int i = 0; i < PR_CONNECTIONS; i++)
		monitor->connections[i].fd = -1;
	monitor->operation.rpc = monitor->init_pidfd = monitor->listener = -1;
	monitor->breakpoints = -1;
	monitor->placeholder.socket = monitor->pager.socket = monitor->pager.connection = -1;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, before);
	sigemptyset(&all);
	sigaddset(&all, SIGCHLD);
	monitor->signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	setsid();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_NAME, "podferry-monito");
	int failed = pr_format(monitor->directory, sizeof monitor->directory, "%s", directory);
	if (!failed)
		failed = pr_format(path, sizeof path, "%s/log", directory);
	if (failed)
		return failed;
	monitor->log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	failed = pr_format(monitor->cpu_note, PR_PATH_BYTES, "%s/cpu", directory);
	if (!failed)
		failed = pr_format(monitor->runc_state, PR_PATH_BYTES, "%s/%s/state.json",
				   call->root, call->id);
	if (!failed)
		failed = pr_format(monitor->exec_fifo, PR_PATH_BYTES, "%s/%s/exec.fifo", call->root,
				   call->id);
	return failed ? failed : pr_cgroups_of_self(&monitor->own);
}

__attribute__((noreturn)) static void monitor_main(struct pr_monitor *monitor,
						   const struct pr_call *call, int argc,
						   char **argv, const char *runc, int caller)
{
	char pid_file[PR_PATH_BYTES], directory[PR_PATH_BYTES];
	sigset_t mask;
	snprintf(directory, sizeof directory, "%s", monitor->directory);
	int failed = prepare(monitor, call, directory, &mask);
	if (!failed)
		failed = pr_format(pid_file, sizeof pid_file, "%s/init.pid", directory);
	char **words = failed ? NULL : words_for_runc(call, argc, argv, pid_file);
	take_stdio(monitor);
	pid_t pid = words ? start_runc(runc, words, &mask) : -1;
	let_stdio_go();
	int status = pid > 0 ? wait_for_runc(monitor, pid, caller) : 1;
	if (status == 0) {
		failed = adopt(monitor, pid_file);
		/* Before containerd can ask for the start. */
		const char *why = "";
		if (!failed && pr_claim_announced(monitor) && pr_claim_begin(monitor, &why))
			pr_monitor_log(monitor, "it is not claimed: %s", why);
		if (!failed)
			failed = publish(monitor, call);
		if (failed)
			pr_report(call, "the monitor cannot take over the container: errno %d",
				  -failed);
	} else if (status > 0) {
		pr_remove_tree(directory);
		tell(caller, status);
		_exit(0);
	}
	if (status < 0 || failed) {
		undo_create(monitor, call, runc);
		tell(caller, 1);
		_exit(1);
	}
	free(words);
	tell(caller, 0);
	close(caller);
	pr_monitor_run(monitor);
}

int pr_create(const struct pr_call *call, int argc, char **argv, const struct pr_settings *settings,
	      const char *runc, const char *directory, int lease, const struct pr_bundle *bundle)
{
	static struct pr_monitor monitor; /* 40 KiB of which little is ever touched */
	int pipe_fds[2], status = 1;
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return 1;
	monitor.settings = *settings;
	monitor.terminal = bundle->terminal;
	monitor.no_new_keyring = call->no_new_keyring;
	snprintf(monitor.directory, sizeof monitor.directory, "%s", directory);
	/* Our caller, whose child the monitor becomes. */
	monitor.shim_pidfd = pr_pidfd_open(getppid());
	pid_t pid = fork();
	if (pid < 0)
		return 1;
	if (pid == 0) {
		close(pipe_fds[0]);
		if (lease >= 0)
			close(lease);
		monitor_main(&monitor, call, argc, argv, runc, pipe_fds[1]);
	}
	close(pipe_fds[1]);
	ssize_t bytes;
	do
		bytes = read(pipe_fds[0], &status, sizeof status);
	while (bytes < 0 && errno == EINTR);
	if (bytes == sizeof status)
		return status;
	pr_report(call, "the monitor ended while it created the container");
	return 1;
}
