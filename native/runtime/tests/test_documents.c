// SPDX-License-Identifier: Apache-2.0
/* What is decided from a bundle and changed in it, runc's state file, where cgroups are. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bundle.h"
#include "cgroup.h"
#include "check.h"
#include "proc.h"
#include "runc_state.h"

static struct pr_settings settings;

static struct pr_bundle judge(const char *text)
{
	struct pr_bundle bundle;

	pr_bundle_judge(text, strlen(text), &settings, &bundle);
	return bundle;
}

#define NOTES(kind, space, more)                                                                   \
	"{\"annotations\":{\"io.kubernetes.cri.container-type\":\"" kind                           \
	"\",\"io.kubernetes.cri.sandbox-namespace\":\"" space "\"" more "}}"

static void workloads_are_managed_unless_told_otherwise(void)
{
	pr_settings_parse("unmanaged kube-system\n", &settings);
	CHECK(judge(NOTES("container", "default", "")).managed);
	CHECK(judge(NOTES("container", "default", ",\"podferry.dev/managed\":\"true\"")).managed);
	CHECK(!judge(NOTES("container", "default", ",\"podferry.dev/managed\":\"false\"")).managed);
	CHECK(!judge(NOTES("sandbox", "default", "")).managed);
	CHECK(!judge(NOTES("container", "kube-system", "")).managed);
	CHECK(!judge("{}").managed);
	CHECK(!judge("{\"annotations\":").managed);
	CHECK(judge("{\"process\":{\"terminal\":true}}").terminal);
	CHECK(!judge("{\"process\":{\"terminal\":false}}").terminal);
}

static pid_t one_more(pid_t pid, void *context)
{
	(void)context;
	return pid == 40 ? pid : pid == 50 ? -1 : pid + 1000000;
}

static void namespaces_of_a_monitor_are_retargeted(void)
{
	static const char text[] =
		"{\"a\":1,\"linux\":{\"namespaces\":[{\"type\":\"pid\",\"path\":\"/proc/41/ns/"
		"pid\"},"
		"{\"type\":\"network\",\"path\":\"/proc/40/ns/net\"},{\"type\":\"mount\"},"
		"{\"type\":\"ipc\",\"path\":\"/var/run/x\"}]}}";
	static const char wanted[] =
		"{\"a\":1,\"linux\":{\"namespaces\":[{\"type\":\"pid\",\"path\":\"/proc/1000041/ns/"
		"pid\"},"
		"{\"type\":\"network\",\"path\":\"/proc/40/ns/net\"},{\"type\":\"mount\"},"
		"{\"type\":\"ipc\",\"path\":\"/var/run/x\"}]}}";
	static const char refused[] =
		"{\"linux\":{\"namespaces\":[{\"type\":\"pid\",\"path\":\"/proc/50/ns/pid\"}]}}";
	size_t made;
	int failed;
	char *out = pr_bundle_retarget(text, strlen(text), one_more, NULL, &made, &failed);

	CHECK(out && !failed && made == strlen(wanted) && !memcmp(out, wanted, made));
	free(out);
	CHECK(!pr_bundle_retarget(refused, strlen(refused), one_more, NULL, &made, &failed));
	CHECK_EQUAL(failed, -ESRCH);
	CHECK(!pr_bundle_retarget("{}", 2, one_more, NULL, &made, &failed) && !failed);
}

#define STATE                                                                                      \
	"{\"id\":\"x\",\"init_process_pid\":%s,\"init_process_start\":%s,\"config\":{"             \
	"\"namespaces\":[{\"type\":\"NEWNS\",\"path\":\"\"}%s]},\"cgroup_paths\":{},"              \
	"\"namespace_paths\":{\"NEWNS\":\"/proc/%s/ns/mnt\",\"NEWNET\":\"/var/run/netns/n\"%s}}"

static void edited(const struct pr_new_init *init, const char *pid, const char *start,
		   const char *listed, const char *path_pid, const char *path)
{
	char before[1024], wanted[1024];
	size_t made = 0;

	snprintf(before, sizeof(before), STATE, "5", "77", "", "5", "");
	snprintf(wanted, sizeof(wanted), STATE, pid, start, listed, path_pid, path);
	char *out = pr_runc_state_edit(before, strlen(before), 5, init, &made);
	CHECK(out && made == strlen(wanted) && !memcmp(out, wanted, made));
	free(out);
	CHECK(!pr_runc_state_edit(before, strlen(before), 6, init, &made));
	CHECK(!pr_runc_state_edit(before, strlen(before) - 1, 5, init, &made));
}

static void runcs_state_names_the_new_init(void)
{
	struct pr_new_init placeholder = {.pid = 60, .start = 88};
	struct pr_new_init same = {.pid = 61, .start = 89, .own_namespaces = true};
	struct pr_new_init timed = {
		.pid = 62, .start = 90, .own_namespaces = true, .time_namespace = true};

	edited(&placeholder, "60", "88", "", "5", "");
	edited(&same, "61", "89", "", "61", "");
	edited(&timed, "62", "90", ",{\"type\":\"NEWTIME\",\"path\":\"\"}", "62",
	       ",\"NEWTIME\":\"/proc/62/ns/time\"");
}

static void cgroups_are_found_under_their_mounts(void)
{
	/* The roots of the mounts are those of a cgroup namespace that is not the machine's. */
	static const char mounts[] =
		"1 0 0:1 / /nowhere rw - tmpfs tmpfs rw\n"
		"2 1 0:2 /sub /proc/self rw shared:1 - cgroup cgroup rw,memory,cpu\n"
		"3 1 0:3 / /proc rw - cgroup2 cgroup2 rw\n";
	struct pr_cgroups groups;

	CHECK_EQUAL(pr_cgroups_parse("4:cpu,cpuacct:/sub/task\n3:name=x:/y\n0::/self\n", mounts,
				     &groups),
		    0);
	CHECK_EQUAL(groups.count, 2);
	CHECK(!strcmp(groups.dirs[0], "/proc/self/task") && !strcmp(groups.dirs[1], "/proc/self"));
	pr_cgroups_free(&groups);
	CHECK_EQUAL(pr_cgroups_parse("nonsense", mounts, &groups), -EINVAL);
}

/* What a CRIU that was killed leaves; setting it needs CAP_NET_ADMIN. */
static bool repair_is_cleared(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1, other[2];
	socklen_t size = sizeof(on);

	CHECK(fd >= 0 && pipe(other) == 0);
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0)
		return false;
	CHECK_EQUAL(pr_proc_clear_repair(getpid()), 1);
	CHECK(getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, &size) == 0);
	CHECK_EQUAL(on, 0);
	CHECK_EQUAL(pr_proc_clear_repair(getpid()), 0);
	return true;
}

int main(void)
{
	workloads_are_managed_unless_told_otherwise();
	namespaces_of_a_monitor_are_retargeted();
	runcs_state_names_the_new_init();
	cgroups_are_found_under_their_mounts();
	return repair_is_cleared() ? 0 : PF_TEST_SKIP;
}
