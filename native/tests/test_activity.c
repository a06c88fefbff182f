// SPDX-License-Identifier: Apache-2.0
/* The activity API under the sanitizers; what the programs count is tested in tests/bpf. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "podferry.h"

#define XDP_PASS_VERDICT 2

static const uint8_t address[16] = {0xfd, [15] = 1};

static struct pf_activity *open_or_skip(void)
{
	static char log[65536];
	struct pf_activity *activity = NULL;
	struct pf_error err = {0};
	int code = pf_activity_open(&activity, NULL, log, sizeof(log), &err);

	if (code == -EPERM || code == -ENOSYS) {
		printf("BPF is not allowed here: %s\n", err.message);
		exit(PF_TEST_SKIP);
	}
	if (code < 0)
		fprintf(stderr, "%s\n%s\n", err.message, log);
	CHECK_EQUAL(code, 0);
	return activity;
}

static void an_address_is_watched_once(struct pf_activity *activity)
{
	struct pf_activity_record record = {.received = {.packets = 9}};
	struct pf_error err = {0};

	CHECK_EQUAL(pf_activity_read(activity, address, &record, &err), -ENOENT);
	CHECK_EQUAL(record.received.packets, 9); /* untouched by a failure */
	CHECK_EQUAL(pf_activity_watch(activity, address, &err), 0);
	CHECK_EQUAL(pf_activity_watch(activity, address, &err), -EEXIST);
	CHECK_EQUAL(pf_activity_read(activity, address, &record, &err), 0);
	CHECK_EQUAL(record.received.packets, 0);
	CHECK_EQUAL(pf_activity_unwatch(activity, address, &err), 0);
	CHECK_EQUAL(pf_activity_unwatch(activity, address, &err), -ENOENT);
}

static void a_frame_to_it_is_counted(struct pf_activity *activity)
{
	uint8_t frame[14 + 40] = {[12] = 0x86, [13] = 0xdd, [14] = 0x60};
	struct pf_activity_record record;
	struct pf_error err = {0};
	uint32_t verdict = 0;

	memcpy(frame + 14 + 24, address, sizeof(address)); /* the destination */
	CHECK_EQUAL(pf_activity_watch(activity, address, &err), 0);
	CHECK_EQUAL(pf_activity_test_run(activity, PF_ACTIVITY_XDP, frame, sizeof(frame), &verdict,
					 &err),
		    0);
	CHECK_EQUAL(verdict, XDP_PASS_VERDICT);
	CHECK_EQUAL(pf_activity_read(activity, address, &record, &err), 0);
	CHECK_EQUAL(record.received.packets, 1);
	CHECK_EQUAL(record.received.bytes, sizeof(frame));
	CHECK_EQUAL(record.sent.packets, 0);
}

static void what_is_no_program_and_no_frame_is_told(struct pf_activity *activity)
{
	struct pf_error err = {0};
	uint32_t verdict = 7;

	CHECK_EQUAL(pf_activity_program_fd(activity, 2), -EINVAL);
	CHECK_EQUAL(pf_activity_test_run(activity, 2, address, sizeof(address), &verdict, &err),
		    -EINVAL);
	CHECK_EQUAL(pf_activity_test_run(activity, PF_ACTIVITY_XDP, address, 3, &verdict, &err),
		    -EINVAL);
	CHECK_EQUAL(verdict, 7);
}

static void a_pin_directory_that_cannot_be_is_told(void)
{
	struct pf_activity *activity = (void *)1;
	struct pf_error err = {0};
	char long_path[5000];

	memset(long_path, 'x', sizeof(long_path));
	long_path[sizeof(long_path) - 1] = '\0';
	CHECK_EQUAL(pf_activity_open(&activity, long_path, NULL, 0, &err), -ENAMETOOLONG);
	CHECK_EQUAL(pf_activity_open(&activity, "/proc/none", NULL, 0, &err), -ENOENT);
	CHECK(strstr(err.message, "/proc/none"));
	CHECK(activity == (void *)1);
}

int main(void)
{
	struct pf_activity *activity = open_or_skip();

	an_address_is_watched_once(activity);
	a_frame_to_it_is_counted(activity);
	what_is_no_program_and_no_frame_is_told(activity);
	a_pin_directory_that_cannot_be_is_told();
	pf_activity_close(activity);
	pf_activity_close(NULL);
	return 0;
}
