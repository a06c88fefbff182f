/* SPDX-License-Identifier: Apache-2.0 */
/* Owns starting processes; knows nothing of states and requests. */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sock.h"
#include "wire.h"

#define ABOVE     512 /* descriptors are first moved here, so that none is overwritten on its way */
#define ANSWER_MS 5000

static void place(int from, int to)
{
	if (from >= 0)
		dup2(from, to);
}

static int lift(int fd)
{
	return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, ABOVE);
}

/* A namespace among what is given is entered, not only passed: CRIU neither dumps nor restores what
 * it shares with the tasks, which takes 20 ms out of the freeze. False if one cannot be entered. */
static bool enter_namespaces(const int *given, int count)
{
	for (int i = 0; i < count; i++) {
		int type = ioctl(given[i], NS_GET_NSTYPE);
		if (type > 0 && setns(given[i], type) < 0)
			return false;
	}
	return true;
}

void pr_spawn_become(const struct pr_spawn *spawn)
{
	for (int i = 0; i < spawn->enter_count; i++)
		if (setns(spawn->enter[i], 0) < 0)
			_exit(126);
	int null = lift(open("/dev/null", O_RDWR | O_CLOEXEC));
	int log = lift(spawn->log), special = lift(spawn->special);
	int stdio[3], given[PR_GIVEN_MAX];
	for (int i = 0; i < 3; i++)
		stdio[i] = lift(spawn->stdio[i]);
	for (int i = 0; i < spawn->given_count; i++)
		given[i] = lift(spawn->given[i]);
	if (!enter_namespaces(given, spawn->given_count))
		_exit(126);
	close_range(0, ABOVE - 1, 0);
	place(null, 0);
	place(null, 1);
	place(log < 0 ? null : log, 2);
	place(special, PR_FD_RPC);
	for (int i = 0; i < 3; i++)
		place(stdio[i], PR_FD_STDIO + i);
	for (int i = 0; i < spawn->given_count; i++)
		place(given[i], PR_FD_GIVEN + i);
	close_range(ABOVE, ~0u, CLOSE_RANGE_CLOEXEC);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (size_t at = 0; at < spawn->environment_bytes;
	     at += strlen(spawn->environment + at) + 1)
		putenv((char *)spawn->environment + at);
	if (chdir("/") == 0)
		execv(spawn->program, spawn->argv);
	_exit(PR_NOT_EXECUTED);
}

pid_t pr_spawn_child(const struct pr_spawn *spawn)
{
	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (pid)
		return pid;
	if (!spawn->outlives_us)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!spawn->outlives_us && getppid() != parent)
		_exit(127);
	pr_spawn_become(spawn);
}

/* The parent of what it makes is its own parent, so that CRIU's rst_sibling gives the restored
 * init to the monitor. */
static pid_t fork_sibling(void)
{
	return (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, 0L);
}

struct order {
	char program[256];
	int has_log, has_special, has_stdio[3], given_count, enter_count;
};

static void carry_out(const struct order *order, const int *fds)
{
	char *argv[] = {(char[]){"criu"}, (char[]){"swrk"}, (char[]){"3"}, NULL};
	struct pr_spawn spawn = {.program = order->program, .argv = argv};
	spawn.log = order->has_log ? *fds++ : -1;
	spawn.special = order->has_special ? *fds++ : -1;
	for (int i = 0; i < 3; i++)
		spawn.stdio[i] = order->has_stdio[i] ? *fds++ : -1;
	spawn.given = fds;
	spawn.given_count = order->given_count;
	spawn.enter = fds + order->given_count;
	spawn.enter_count = order->enter_count;
	/* No signal at the monitor's death: CRIU hears of it by its channel, and then kills what it
	 * has made. Killed itself, it would leave tasks that wait in its restorer for ever and hold
	 * the container's stdout, whose end containerd waits for before it deletes anything. */
	pr_spawn_become(&spawn);
}

__attribute__((noreturn)) static void placeholder_main(int socket)
{
	struct order order;
	int fds[PR_FDS_MAX], count;
	for (;;) {
		ssize_t bytes =
			pr_sock_receive(socket, &order, sizeof order, fds, PR_FDS_MAX, &count);
		if (bytes != sizeof order)
			_exit(0);
		pid_t pid = fork_sibling();
		if (pid == 0)
			carry_out(&order, fds);
		int answer = pid < 0 ? -errno : pid;
		pr_close_all(fds, count);
		if (pr_sock_send(socket, &answer, sizeof answer, NULL, 0) < 0)
			_exit(0);
	}
}

int pr_placeholder_start(struct pr_placeholder *placeholder, int cgroup_ns, bool keyring, int kept)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid < 0) {
		int failed = -errno;
		pr_close_all(pair, 2);
		return failed;
	}
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(0);
		prctl(PR_SET_NAME, "podferry-asleep");
		if (cgroup_ns >= 0)
			setns(cgroup_ns, CLONE_NEWCGROUP);
		if (keyring)
			syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
		int high = lift(kept);
		dup2(pair[1], 3);
		if (high >= 0)
			dup2(high, 4);
		/* Without stdio: nobody may wait for the end of the container's pipes because of it. */
		close_range(0, 2, 0);
		close_range(high >= 0 ? 5 : 4, ~0u, 0);
		for (int i = 0; i < 3; i++)
			open("/dev/null", O_RDWR | O_CLOEXEC);
		fcntl(3, F_SETFD, FD_CLOEXEC);
		fcntl(4, F_SETFD, FD_CLOEXEC);
		placeholder_main(3);
	}
	close(pair[1]);
	*placeholder = (struct pr_placeholder){.pid = pid, .socket = pair[0]};
	return 0;
}

pid_t pr_placeholder_spawn(const struct pr_placeholder *placeholder, const struct pr_spawn *spawn)
{
	struct order order = {.given_count = spawn->given_count, .enter_count = spawn->enter_count};
	int fds[PR_FDS_MAX], count = 0, answer;
	if (strlen(spawn->program) >= sizeof order.program)
		return -ENAMETOOLONG;
	if (spawn->given_count + spawn->enter_count > PR_FDS_MAX - 5)
		return -E2BIG;
	strcpy(order.program, spawn->program);
	if ((order.has_log = spawn->log >= 0))
		fds[count++] = spawn->log;
	if ((order.has_special = spawn->special >= 0))
		fds[count++] = spawn->special;
	for (int i = 0; i < 3; i++)
		if ((order.has_stdio[i] = spawn->stdio[i] >= 0))
			fds[count++] = spawn->stdio[i];
	for (int i = 0; i < spawn->given_count; i++)
		fds[count++] = spawn->given[i];
	for (int i = 0; i < spawn->enter_count; i++)
		fds[count++] = spawn->enter[i];
	int failed = pr_sock_send(placeholder->socket, &order, sizeof order, fds, count);
	if (failed)
		return failed;
	struct pollfd ready = {.fd = placeholder->socket, .events = POLLIN};
	if (poll(&ready, 1, ANSWER_MS) != 1)
		return -ETIMEDOUT;
	ssize_t bytes = recv(placeholder->socket, &answer, sizeof answer, 0);
	return bytes == sizeof answer ? answer : -EPIPE;
}
