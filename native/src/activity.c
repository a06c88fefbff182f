// SPDX-License-Identifier: Apache-2.0
/* Owns the userland side of bpf/activity; knows nothing of pods or devices. */
#include "podferry/activity.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "activity.skel.h"
#include "activity_shared.h"
#include "cleanup.h"
#include "error.h"

#define PIN_NAME "activity_addresses"

_Static_assert(sizeof(struct pf_activity_record) == sizeof(struct pf_activity_value),
	       "the public record mirrors the map's value");

struct pf_activity {
	struct activity_bpf *skeleton;
	int map_fd; /* the skeleton's, not ours */
	int cpus;   /* possible ones: the kernel copies a value for each */
};

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level;
	(void)format;
	(void)args;
	return 0;
}

static int set_pin_path(struct activity_bpf *skeleton, const char *pin_dir, struct pf_error *err)
{
	char path[PATH_MAX];
	int length = snprintf(path, sizeof(path), "%s/" PIN_NAME, pin_dir);
	int code;

	if (length < 0 || (size_t)length >= sizeof(path))
		return pf_fail(err, -ENAMETOOLONG, "pin directory of %d bytes is too long", length);
	if (mkdir(pin_dir, 0700) < 0 && errno != EEXIST)
		return pf_fail_errno(err, "cannot make the pin directory %s", pin_dir);
	code = bpf_map__set_pin_path(skeleton->maps.pf_activity, path);
	if (code < 0)
		return pf_fail(err, code, "cannot pin a map at %s: %s", path, strerror(-code));
	return 0;
}

static int load(struct pf_activity *activity, const char *pin_dir, char *verifier_log,
		size_t verifier_log_bytes, struct pf_error *err)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts);
	int code;

	if (verifier_log && verifier_log_bytes) {
		verifier_log[0] = '\0';
		opts.kernel_log_buf = verifier_log;
		opts.kernel_log_size = verifier_log_bytes;
	}
	activity->skeleton = activity_bpf__open_opts(&opts);
	if (!activity->skeleton)
		return pf_fail_errno(err, "cannot open the activity object");
	if (pin_dir) {
		code = set_pin_path(activity->skeleton, pin_dir, err);
		if (code < 0)
			return code;
	}
	code = activity_bpf__load(activity->skeleton);
	if (code < 0)
		return pf_fail(err, code, "the kernel does not load the activity programs: %s",
			       strerror(-code));
	activity->map_fd = bpf_map__fd(activity->skeleton->maps.pf_activity);
	return 0;
}

int pf_activity_open(struct pf_activity **out, const char *pin_dir, char *verifier_log,
		     size_t verifier_log_bytes, struct pf_error *err)
{
	struct pf_activity *activity = calloc(1, sizeof(*activity));
	libbpf_print_fn_t before;
	int code;

	if (!activity)
		return pf_fail(err, -ENOMEM, "out of memory");
	activity->cpus = libbpf_num_possible_cpus();
	if (activity->cpus < 0) {
		code = pf_fail(err, activity->cpus, "cannot tell the number of possible CPUs");
		goto failed;
	}
	before = libbpf_set_print(quiet); /* what it would print is in the error and the log */
	code = load(activity, pin_dir, verifier_log, verifier_log_bytes, err);
	libbpf_set_print(before);
	if (code < 0)
		goto failed;
	*out = activity;
	return 0;
failed:
	pf_activity_close(activity);
	return code;
}

void pf_activity_close(struct pf_activity *activity)
{
	if (!activity)
		return;
	activity_bpf__destroy(activity->skeleton);
	free(activity);
}

int pf_activity_program_fd(const struct pf_activity *activity, int program)
{
	switch (program) {
	case PF_ACTIVITY_XDP:
		return bpf_program__fd(activity->skeleton->progs.activity_xdp);
	case PF_ACTIVITY_TC:
		return bpf_program__fd(activity->skeleton->progs.activity_tc);
	default:
		return -EINVAL;
	}
}

static struct pf_activity_value *values_of_all_cpus(const struct pf_activity *activity)
{
	return calloc((size_t)activity->cpus, sizeof(struct pf_activity_value));
}

int pf_activity_watch(struct pf_activity *activity, const uint8_t address[16], struct pf_error *err)
{
	PF_AUTO_FREE struct pf_activity_value *zero = values_of_all_cpus(activity);

	if (!zero)
		return pf_fail(err, -ENOMEM, "out of memory");
	if (bpf_map_update_elem(activity->map_fd, address, zero, BPF_NOEXIST) < 0) {
		if (errno == EEXIST)
			return pf_fail(err, -EEXIST, "the address is already watched");
		if (errno == E2BIG)
			return pf_fail(err, -E2BIG, "%d addresses are watched, no more fit",
				       PF_ACTIVITY_MAX_ADDRESSES);
		return pf_fail_errno(err, "cannot watch the address");
	}
	return 0;
}

int pf_activity_unwatch(struct pf_activity *activity, const uint8_t address[16],
			struct pf_error *err)
{
	if (bpf_map_delete_elem(activity->map_fd, address) < 0) {
		if (errno == ENOENT)
			return pf_fail(err, -ENOENT, "the address is not watched");
		return pf_fail_errno(err, "cannot stop watching the address");
	}
	return 0;
}

static void add(struct pf_activity_direction *sum, const struct pf_activity_count *part)
{
	if (part->last_ns > sum->last_ns)
		sum->last_ns = part->last_ns;
	sum->packets += part->packets;
	sum->bytes += part->bytes;
}

int pf_activity_read(struct pf_activity *activity, const uint8_t address[16],
		     struct pf_activity_record *out, struct pf_error *err)
{
	PF_AUTO_FREE struct pf_activity_value *values = values_of_all_cpus(activity);
	struct pf_activity_record sum = {0};

	if (!values)
		return pf_fail(err, -ENOMEM, "out of memory");
	if (bpf_map_lookup_elem(activity->map_fd, address, values) < 0) {
		if (errno == ENOENT)
			return pf_fail(err, -ENOENT, "the address is not watched");
		return pf_fail_errno(err, "cannot read the address's counters");
	}
	for (int cpu = 0; cpu < activity->cpus; cpu++) {
		add(&sum.received, &values[cpu].received);
		add(&sum.sent, &values[cpu].sent);
	}
	*out = sum;
	return 0;
}

int pf_activity_test_run(struct pf_activity *activity, int program, const void *frame,
			 size_t frame_bytes, uint32_t *verdict, struct pf_error *err)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame, .repeat = 1);
	int fd = pf_activity_program_fd(activity, program);

	if (fd < 0)
		return pf_fail(err, -EINVAL, "%d is no program of the activity object", program);
	if (frame_bytes > UINT32_MAX)
		return pf_fail(err, -EMSGSIZE, "a frame of %zu bytes is too long", frame_bytes);
	opts.data_size_in = (uint32_t)frame_bytes;
	if (bpf_prog_test_run_opts(fd, &opts) < 0)
		return pf_fail_errno(err, "the kernel does not run the program on %zu bytes",
				     frame_bytes);
	*verdict = opts.retval;
	return 0;
}
