/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the front: what containerd calls as its OCI runtime. The table verb x state that it
 * carries out is in docs/monitor.md. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "argv.h"
#include "bundle.h"
#include "bytes.h"
#include "cgroup.h"
#include "client.h"
#include "create.h"
#include "report.h"
#include "runc_state.h"
#include "settings.h"
#include "sock.h"

#define ANSWER_MS    5000
#define WAKE_MS      70000 /* longer than the monitor gives CRIU */
#define MONITOR_NAME "podferry-monito\n"

struct front {
	struct pr_call call;
	struct pr_settings settings;
	int argc;
	char **argv;
	char runc[PR_PATH_BYTES];
	char directory[PR_PATH_BYTES]; /* the monitor's */
	int lease;                     /* kept while another container's create joins a namespace */
};

__attribute__((noreturn)) static void become_runc(struct front *front)
{
	front->argv[0] = front->runc;
	execv(front->runc, front->argv);
	pr_report(&front->call, "%s cannot be started: errno %d", front->runc, errno);
	exit(1);
}

__attribute__((noreturn)) static void refuse(struct front *front, const struct pr_reply *reply)
{
	pr_report(&front->call, "container %s: %s", front->call.id,
		  reply->text[0] ? reply->text : "its monitor refuses");
	exit(1);
}

/* It may have been claimed: then it would run here and where it comes from. */
__attribute__((noreturn)) static void refuse_start(struct front *front)
{
	struct pr_reply reply = {.text = "its monitor has ended; it is not started without one"};
	refuse(front, &reply);
}

/* The lease outlives execve: it ends when runc does. */
static void keep_over_exec(int fd)
{
	fcntl(fd, F_SETFD, 0);
}

static void pass_with_lease(struct front *front, int fd, uint16_t verb, uint32_t flags)
{
	struct pr_reply reply;
	bool start = verb == PR_STARTED;
	int failed = pr_ask(fd, verb, flags, WAKE_MS, &reply);
	if (failed == -EPIPE && start)
		refuse_start(front);
	if (failed == -EPIPE)
		become_runc(front); /* it has ended meanwhile: runc knows the rest */
	if (failed) {
		snprintf(reply.text, sizeof reply.text, "its monitor does not answer (errno %d)",
			 -failed);
		refuse(front, &reply);
	}
	if (reply.status == PR_ALREADY)
		exit(0);
	if (reply.status)
		refuse(front, &reply);
	keep_over_exec(fd);
	become_runc(front);
}

static bool is_sigkill(const char *name)
{
	if (!name)
		return false; /* runc's default is SIGTERM */
	return !strcmp(name, "9") || !strcasecmp(name, "KILL") || !strcasecmp(name, "SIGKILL");
}

static void kill_verb(struct front *front, int fd)
{
	struct pr_reply reply;
	if (!is_sigkill(front->call.signal))
		pass_with_lease(front, fd, PR_LEASE, PR_FLAG_AWAKE | PR_FLAG_SIGNAL);
	int failed = pr_ask(fd, PR_KILL, 0, ANSWER_MS, &reply);
	if (failed == 0 && reply.status == PR_OK)
		exit(0);
	become_runc(front);
}

/* Nobody watches over this container any more: whatever is left of it must not go on beside its
 * successor. */
static void fence(struct front *front)
{
	char path[PR_PATH_BYTES], images[PR_PATH_BYTES];
	struct pr_runc_state known;
	if (!pr_format(path, sizeof path, "%s/%s/state.json", front->call.root, front->call.id) &&
	    !pr_runc_state_read(path, &known)) {
		int failed = pr_cgroups_kill(&known.groups);
		if (failed)
			pr_report(&front->call, "%s does not empty (errno %d)", front->call.id,
				  -failed);
		pr_cgroups_free(&known.groups);
	}
	if (!pr_format(path, sizeof path, "%s/cpu", front->directory))
		pr_cgroups_restore_cpu(path);
	if (!pr_format(path, sizeof path, "%s/images", front->directory)) {
		ssize_t length = readlink(path, images, sizeof images - 1);
		if (length > 1) {
			images[length] = '\0';
			pr_remove_tree(images);
		}
	}
	pr_remove_tree(front->directory);
}

static void kill_monitor(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof peer;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.pid <= 1)
		return;
	kill(peer.pid, SIGKILL);
	struct timespec pause = {0, 1000000};
	for (int i = 0; i < 2000 && kill(peer.pid, 0) == 0; i++) {
		char byte;
		if (recv(fd, &byte, 1, MSG_DONTWAIT) == 0)
			return;
		nanosleep(&pause, NULL);
	}
}

static void delete_verb(struct front *front, int fd)
{
	struct pr_reply reply;
	int failed =
		pr_ask(fd, PR_DELETE, front->call.force ? PR_FLAG_FORCE : 0, ANSWER_MS, &reply);
	if (failed == -ETIMEDOUT && front->call.force) {
		kill_monitor(fd);
		failed = -EPIPE;
	}
	close(fd);
	if (failed == -EPIPE && access(front->directory, F_OK) == 0)
		fence(front);
	become_runc(front);
}

static bool among(const char *verb, const char *const *verbs)
{
	for (; *verbs; verbs++)
		if (!strcmp(verb, *verbs))
			return true;
	return false;
}

static void managed_verb(struct front *front)
{
	static const char *const wake_first[] = {"exec", "pause", "resume", "checkpoint", NULL};
	static const char *const unhindered[] = {"events", "run", "restore", NULL};
	const char *verb = front->call.verb;
	int fd = pr_sock_connect(front->directory, "control");
	if (fd < 0) {
		if (!strcmp(verb, "delete"))
			fence(front);
		if (!strcmp(verb, "start"))
			refuse_start(front);
		become_runc(front);
	}
	if (!strcmp(verb, "start"))
		pass_with_lease(front, fd, PR_STARTED, 0);
	if (!strcmp(verb, "delete"))
		delete_verb(front, fd);
	if (!strcmp(verb, "kill"))
		kill_verb(front, fd);
	if (among(verb, unhindered)) {
		close(fd);
		become_runc(front);
	}
	pass_with_lease(front, fd, PR_LEASE, among(verb, wake_first) ? PR_FLAG_AWAKE : 0);
}

static bool names_pid(const char *directory, pid_t pid)
{
	char path[PR_PATH_BYTES], text[32];
	if (pr_format(path, sizeof path, "%s/pid", directory))
		return false;
	return pr_read_small(path, text, sizeof text) > 0 && pr_number(text) == pid;
}

/* The state directory of the monitor with that pid. */
static bool find_monitor(pid_t pid, char *out, size_t size)
{
	DIR *root = opendir(PR_STATE_ROOT);
	bool found = false;
	for (struct dirent *outer; root && !found && (outer = readdir(root));) {
		char path[PR_PATH_BYTES];
		if (outer->d_name[0] == '.')
			continue;
		if (pr_format(path, sizeof path, "%s/%s", PR_STATE_ROOT, outer->d_name))
			continue;
		DIR *space = opendir(path);
		for (struct dirent *inner; space && !found && (inner = readdir(space));)
			found = inner->d_name[0] != '.' &&
				!pr_format(out, size, "%s/%s", path, inner->d_name) &&
				names_pid(out, pid);
		if (space)
			closedir(space);
	}
	if (root)
		closedir(root);
	return found;
}

/* The real init behind a monitor's pid, woken and kept awake until the create has ended. */
static pid_t resolve(pid_t pid, void *context)
{
	struct front *front = context;
	char path[PR_PATH_BYTES], name[32];
	struct pr_reply reply;
	if (pr_format(path, sizeof path, "/proc/%d/comm", (int)pid) ||
	    pr_read_small(path, name, sizeof name) < 0 || strcmp(name, MONITOR_NAME))
		return pid;
	if (!find_monitor(pid, path, sizeof path))
		return -1;
	int fd = pr_sock_connect(path, "control");
	if (fd < 0)
		return -1;
	int failed = pr_ask(fd, PR_LEASE, PR_FLAG_AWAKE, WAKE_MS, &reply);
	if (failed || reply.status || !reply.state.init_pid) {
		close(fd);
		return -1;
	}
	if (front->lease >= 0)
		close(front->lease);
	front->lease = fd;
	return (pid_t)reply.state.init_pid;
}

static void create_verb(struct front *front, bool readable)
{
	const char *place = front->call.bundle ? front->call.bundle : ".";
	struct pr_bundle bundle;
	int failed = pr_bundle_retarget_file(place, resolve, front);
	if (failed == -ESRCH) {
		pr_report(&front->call,
			  "container %s shares a namespace with one that cannot be woken",
			  front->call.id);
		exit(1);
	}
	failed = pr_bundle_read(place, &front->settings, &bundle);
	if (!failed && readable && bundle.managed) {
		/* What a monitor that was killed has left has no more to say. */
		if (access(front->directory, F_OK) == 0)
			pr_remove_tree(front->directory);
		failed = pr_mkdirs(PR_STATE_ROOT, 0711);
		if (!failed)
			failed = pr_mkdirs(front->directory, 0700);
		if (!failed)
			exit(pr_create(&front->call, front->argc, front->argv, &front->settings,
				       front->runc, front->directory, front->lease, &bundle));
		pr_report(&front->call, "no monitor for %s: %s (errno %d)", front->call.id,
			  front->directory, -failed);
	}
	if (front->lease >= 0)
		keep_over_exec(front->lease);
	become_runc(front);
}

static const char *base_name(const char *path)
{
	const char *end = path + strlen(path);
	while (end > path && end[-1] == '/')
		end--;
	const char *from = end;
	while (from > path && from[-1] != '/')
		from--;
	return from;
}

int main(int argc, char **argv)
{
	static struct front front = {.lease = -1};
	front.argc = argc;
	front.argv = argv;
	pr_argv_parse(argc, argv, &front.call);
	bool readable = pr_settings_load(&front.settings);
	if (front.settings.runc[0])
		snprintf(front.runc, sizeof front.runc, "%s", front.settings.runc);
	else if (!pr_find_program("runc", front.runc, sizeof front.runc)) {
		pr_report(&front.call, "runc is not found along PATH; install it or name it in %s",
			  PR_SETTINGS_FILE);
		return 1;
	}
	if (!front.call.verb || !front.call.id || !pr_plain_name(front.call.id))
		become_runc(&front);
	if (!front.call.root)
		front.call.root = "/run/runc";
	if (pr_format(front.directory, sizeof front.directory, "%s/%s/%s", PR_STATE_ROOT,
		      base_name(front.call.root), front.call.id))
		become_runc(&front);
	if (!strcmp(front.call.verb, "create"))
		create_verb(&front, readable);
	if (access(front.directory, F_OK) < 0)
		become_runc(&front);
	managed_verb(&front);
	return 1;
}
