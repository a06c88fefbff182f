// SPDX-License-Identifier: Apache-2.0
/* Runs every probe. What this kernel has is unknown here, so what is checked is that a probe's
 * answer is of the promised form, that nothing of it stays, and the answers that every kernel
 * must give. */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "child.h"
#include "netns.h"
#include "podferry.h"

static uint64_t features;
static uint32_t diag;

static int userfaultfd_probe(struct pf_error *err)
{
	return pf_probe_userfaultfd(&features, err);
}

static int sock_diag_probe(struct pf_error *err)
{
	return pf_probe_sock_diag(&diag, err);
}

static int veth_probe(struct pf_error *err)
{
	return pf_probe_link_kind("veth", err);
}

static int plug_probe(struct pf_error *err)
{
	return pf_probe_qdisc_kind("plug", err);
}

static const struct {
	const char *name;
	int (*run)(struct pf_error *err);
} probes[] = {
	{"userfaultfd", userfaultfd_probe},
	{"pagemap_scan", pf_probe_pagemap_scan},
	{"soft_dirty", pf_probe_soft_dirty},
	{"process_vm_readv", pf_probe_process_vm_readv},
	{"set_tid", pf_probe_set_tid},
	{"pidfd_getfd", pf_probe_pidfd_getfd},
	{"ptrace", pf_probe_ptrace},
	{"tcp_repair", pf_probe_tcp_repair},
	{"sock_diag", sock_diag_probe},
	{"veth", veth_probe},
	{"plug", plug_probe},
	{"xdp_generic", pf_probe_xdp_generic},
	{"tcx", pf_probe_tcx},
	{"clsact", pf_probe_clsact},
};

static int open_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = 0;

	CHECK(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static ino_t network_namespace(void)
{
	struct stat status;

	CHECK(stat("/proc/thread-self/ns/net", &status) == 0);
	return status.st_ino;
}

static void every_probe_answers_and_leaves_nothing(void)
{
	int before = open_descriptors();
	ino_t home = network_namespace();

	for (size_t i = 0; i < sizeof(probes) / sizeof(probes[0]); i++) {
		struct pf_error err = {.code = 1, .message = "untouched"};
		int code = probes[i].run(&err);

		printf("%s: %s\n", probes[i].name, code == 0 ? "works" : err.message);
		CHECK(code <= 0);
		CHECK_EQUAL(err.code, code == 0 ? 1 : code);
		CHECK((strcmp(err.message, "untouched") == 0) == (code == 0));
		CHECK_EQUAL(open_descriptors(), before);
		CHECK(network_namespace() == home);
		CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	}
}

static int answer_seven(void *argument)
{
	(void)argument;
	return 7;
}

static int die(void *argument)
{
	(void)argument;
	_exit(3);
}

static void a_child_answers_and_a_dead_one_is_told(void)
{
	struct pf_child child = PF_CHILD_NONE;
	struct pf_error err = {0};
	int value = 0;

	CHECK_EQUAL(pf_child_start(&child, answer_seven, NULL, &err), 0);
	CHECK_EQUAL(pf_child_value(&child, &value, &err), 0);
	CHECK_EQUAL(value, 7);
	pf_child_end(&child);
	CHECK_EQUAL(pf_child_start(&child, die, NULL, &err), 0);
	CHECK_EQUAL(pf_child_value(&child, &value, &err), -ECHILD);
	pf_child_end(&child);
	pf_child_end(&child); /* twice is allowed */
}

static int fail_inside(void *argument, struct pf_error *err)
{
	*(ino_t *)argument = network_namespace();
	(void)err;
	return -EDOM;
}

static void a_namespace_is_new_and_its_bodys_code_comes_back(void)
{
	struct pf_error err = {0};
	ino_t inside = 0;
	int code = pf_in_new_netns(fail_inside, &inside, &err);

	if (code == -EPERM) /* not root: nothing to see */
		return;
	CHECK_EQUAL(code, -EDOM);
	CHECK(inside != network_namespace());
}

static void an_unknown_kind_is_told(void)
{
	struct pf_error err = {0};
	int code = pf_probe_link_kind("nokind", &err);

	CHECK(code == -EOPNOTSUPP || code == -EPERM);
	code = pf_probe_qdisc_kind("nokind", &err);
	CHECK(code == -ENOENT || code == -EPERM);
	CHECK_EQUAL(pf_probe_link_kind("a kind whose name fits into no message", &err), -EINVAL);
}

int main(void)
{
	an_unknown_kind_is_told();
	a_child_answers_and_a_dead_one_is_told();
	a_namespace_is_new_and_its_bodys_code_comes_back();
	every_probe_answers_and_leaves_nothing();
	return 0;
}
