// SPDX-License-Identifier: Apache-2.0
/* The hold API under the sanitizers, on a loopback of its own; what it does to packets is tested in
 * tests/bpf. */
#include "podferry/hold.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

#define LOOPBACK_INDEX 1

static const uint8_t addresses[2][16] = {
	{[10] = 0xff, 0xff, 127, 0, 0, 1},
	{[15] = 1},
};

static char root[64];
static char pin_dir[128];

/* In a mount and network namespace of its own: nothing is left, whatever fails. */
static void isolate(void)
{
	if (unshare(CLONE_NEWNS | CLONE_NEWNET) < 0) {
		printf("namespaces are not allowed here: %s\n", strerror(errno));
		exit(PF_TEST_SKIP);
	}
	CHECK_EQUAL(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	snprintf(root, sizeof(root), "/tmp/pf-hold-XXXXXX");
	CHECK(mkdtemp(root));
	CHECK_EQUAL(mount("tmpfs", root, "tmpfs", 0, NULL), 0);
	snprintf(pin_dir, sizeof(pin_dir), "%s/podferry/hold/one", root);
}

static struct pf_hold_settings settings_of(void)
{
	return (struct pf_hold_settings){
		.max_bytes = 1 << 20,
		.max_packets = 100,
		.pod_ifindex = LOOPBACK_INDEX,
		.plug_ifindex = LOOPBACK_INDEX,
		.far_ifindex = LOOPBACK_INDEX,
	};
}

static void make_dir(void)
{
	char parent[128];
	struct pf_error err = {0};

	snprintf(parent, sizeof(parent), "%s/podferry/hold", root);
	CHECK_EQUAL(pf_hold_make_pin_dir(root, parent, &err), 0);
	CHECK_EQUAL(mkdir(pin_dir, 0700), 0);
}

static void install_or_skip(void)
{
	static char log[65536];
	struct pf_hold_settings settings = settings_of();
	struct pf_error err = {0};
	int code = pf_hold_install(pin_dir, &settings, addresses[0], 2, log, sizeof(log), &err);

	if (code == -EPERM || code == -ENOSYS) {
		printf("BPF is not allowed here: %s\n", err.message);
		exit(PF_TEST_SKIP);
	}
	if (code < 0)
		fprintf(stderr, "%s\n%s\n", err.message, log);
	CHECK_EQUAL(code, 0);
}

static void a_hold_is_found_by_its_pins(void)
{
	struct pf_hold *hold = NULL;
	struct pf_hold_settings settings;
	struct pf_hold_counters counters;
	uint8_t found[PF_HOLD_ADDRESSES_MAX * 16];
	size_t count = 0;
	uint32_t phase = 9;
	struct pf_error err = {0};

	CHECK_EQUAL(pf_hold_open(&hold, pin_dir, &err), 0);
	CHECK(pf_hold_phase_fd(hold) >= 0);
	CHECK(pf_hold_events_fd(hold) >= 0);
	CHECK_EQUAL(pf_hold_read_phase(hold, &phase, &err), 0);
	CHECK_EQUAL(phase, PF_HOLD_PHASE_PASS);
	CHECK_EQUAL(pf_hold_write_phase(hold, 6, &err), -EINVAL);
	CHECK_EQUAL(pf_hold_read_settings(hold, &settings, &err), 0);
	CHECK_EQUAL(settings.max_packets, 100);
	CHECK_EQUAL(pf_hold_read_counters(hold, &counters, &err), 0);
	CHECK_EQUAL(counters.in_packets, 0);
	CHECK_EQUAL(pf_hold_read_addresses(hold, found, &count, &err), 0);
	CHECK_EQUAL(count, 2);
	pf_hold_close(hold);
}

static void a_packet_raises_one_event(void)
{
	uint8_t frame[14 + 40 + 8] = {[12] = 0x86, [13] = 0xdd, [14] = 0x60, [19] = 8, [20] = 17};
	struct pf_hold *hold = NULL;
	struct pf_hold_waking waking;
	struct pf_error err = {0};
	uint32_t verdict = 0, phase = 0;

	memcpy(frame + 14 + 24, addresses[1], 16); /* the destination */
	CHECK_EQUAL(pf_hold_open(&hold, pin_dir, &err), 0);
	CHECK_EQUAL(pf_hold_rearm(hold, &err), 0);
	CHECK_EQUAL(pf_hold_write_phase(hold, PF_HOLD_PHASE_HELD, &err), 0);
	CHECK_EQUAL(pf_hold_take_event(hold, &waking, &err), 0);
	for (int i = 0; i < 2; i++)
		CHECK_EQUAL(pf_hold_test_run(hold, PF_HOLD_PROGRAM_TO_POD, frame, sizeof(frame), 0,
					     &verdict, &err),
			    0);
	CHECK_EQUAL(pf_hold_take_event(hold, &waking, &err), 1);
	CHECK_EQUAL(waking.protocol, 17);
	CHECK_EQUAL(pf_hold_take_event(hold, &waking, &err), 0);
	CHECK_EQUAL(pf_hold_test_run(hold, 3, frame, sizeof(frame), 0, &verdict, &err), -EINVAL);
	CHECK_EQUAL(pf_hold_write_phase(hold, PF_HOLD_PHASE_RELEASING, &err), 0);
	CHECK_EQUAL(pf_hold_settle(hold, &phase, &err), 0);
	CHECK_EQUAL(phase, PF_HOLD_PHASE_RELEASING); /* nothing has come out */
	CHECK_EQUAL(pf_hold_rearm(hold, &err), 0);
	CHECK_EQUAL(pf_hold_settle(hold, &phase, &err), 0);
	CHECK_EQUAL(phase, PF_HOLD_PHASE_PASS);
	pf_hold_close(hold);
}

static void removing_leaves_an_empty_directory_and_may_be_repeated(void)
{
	struct pf_hold *hold = (void *)1;
	struct pf_error err = {0};

	CHECK_EQUAL(pf_hold_uninstall(pin_dir, &err), 0);
	CHECK_EQUAL(pf_hold_open(&hold, pin_dir, &err), -ENOENT);
	CHECK(strstr(err.message, pin_dir));
	CHECK(hold == (void *)1);
	CHECK_EQUAL(pf_hold_uninstall(pin_dir, &err), 0);
	CHECK_EQUAL(rmdir(pin_dir), 0);
	CHECK_EQUAL(pf_hold_uninstall(pin_dir, &err), 0);
}

static void what_cannot_be_is_told(void)
{
	struct pf_hold_settings settings = settings_of();
	struct pf_error err = {0};
	uint32_t ifindex = 7, peer = 7;
	uint8_t mac[6];

	CHECK_EQUAL(pf_hold_install(pin_dir, &settings, addresses[0], 17, NULL, 0, &err), -E2BIG);
	settings.pod_ifindex = settings.far_ifindex = 12345;
	CHECK(pf_hold_install(pin_dir, &settings, addresses[0], 1, NULL, 0, &err) < 0);
	CHECK_EQUAL(pf_hold_uninstall(pin_dir, &err), 0);
	CHECK_EQUAL(pf_hold_find_device("/proc/none", addresses[0], &ifindex, &peer, mac, &err),
		    -ENOENT);
	CHECK_EQUAL(
		pf_hold_find_device("/proc/self/ns/net", addresses[0], &ifindex, &peer, mac, &err),
		-ENODEV); /* lo is down, and has no address yet */
	CHECK_EQUAL(ifindex, 7);
}

int main(void)
{
	isolate();
	make_dir();
	install_or_skip();
	a_hold_is_found_by_its_pins();
	a_packet_raises_one_event();
	removing_leaves_an_empty_directory_and_may_be_repeated();
	make_dir();
	what_cannot_be_is_told();
	pf_hold_close(NULL);
	/* Both, as make_dir mounted a bpf file system over the tmpfs. */
	CHECK_EQUAL(umount2(root, MNT_DETACH), 0);
	CHECK_EQUAL(umount2(root, MNT_DETACH), 0);
	CHECK_EQUAL(rmdir(root), 0);
	return 0;
}
