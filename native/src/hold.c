// SPDX-License-Identifier: Apache-2.0
/* Owns the use of an installed hold: its phase, its counters and its events, found by its pins. */
#include "podferry/hold.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "cleanup.h"
#include "error.h"
#include "hold_pins.h"
#include "hold_shared.h"

enum part { PHASE, CONFIG, COUNTS, RAISED, ADDRESSES, EVENTS, TARGETS, PARTS };

static const char *const pin_names[PARTS] = {
	[PHASE] = PF_PIN_PHASE,     [CONFIG] = PF_PIN_CONFIG,       [COUNTS] = PF_PIN_COUNTS,
	[RAISED] = PF_PIN_RAISED,   [ADDRESSES] = PF_PIN_ADDRESSES, [EVENTS] = PF_PIN_EVENTS,
	[TARGETS] = PF_PIN_TARGETS,
};

struct pf_hold {
	int map_fds[PARTS];
	int program_fds[PF_HOLD_ATTACHMENTS];
	int settle_fd; /* a program that is attached nowhere; -1: of a version without the lock */
};

static int open_pins(struct pf_hold *hold, const char *pin_dir, struct pf_error *err)
{
	for (int i = 0; i < PARTS; i++) {
		hold->map_fds[i] = pf_hold_get_pin(pin_dir, pin_names[i], err);
		/* A hold of the version before has no targets; it holds and releases all the same. */
		if (hold->map_fds[i] == -ENOENT && i == TARGETS)
			continue;
		if (hold->map_fds[i] < 0)
			return hold->map_fds[i];
	}
	for (int i = 0; i < PF_HOLD_ATTACHMENTS; i++) {
		hold->program_fds[i] =
			pf_hold_get_pin(pin_dir, pf_hold_attachments[i].program_pin, err);
		if (hold->program_fds[i] < 0)
			return hold->program_fds[i];
	}
	hold->settle_fd = pf_hold_get_pin(pin_dir, PF_PIN_SETTLE, err);
	return hold->settle_fd < 0 && hold->settle_fd != -ENOENT ? hold->settle_fd : 0;
}

int pf_hold_open(struct pf_hold **out, const char *pin_dir, struct pf_error *err)
{
	struct pf_hold *hold = malloc(sizeof(*hold));
	int code;

	if (!hold)
		return pf_fail(err, -ENOMEM, "out of memory");
	memset(hold, 0xff, sizeof(*hold)); /* every fd -1 */
	code = open_pins(hold, pin_dir, err);
	if (code < 0) {
		pf_hold_close(hold);
		return code;
	}
	*out = hold;
	return 0;
}

void pf_hold_close(struct pf_hold *hold)
{
	if (!hold)
		return;
	for (int i = 0; i < PARTS; i++)
		pf_cleanup_fd(&hold->map_fds[i]);
	for (int i = 0; i < PF_HOLD_ATTACHMENTS; i++)
		pf_cleanup_fd(&hold->program_fds[i]);
	pf_cleanup_fd(&hold->settle_fd);
	free(hold);
}

int pf_hold_phase_fd(const struct pf_hold *hold)
{
	return hold->map_fds[PHASE];
}

int pf_hold_events_fd(const struct pf_hold *hold)
{
	return hold->map_fds[EVENTS];
}

/* Under the map's lock if it has one. */
static uint64_t flags_of(const struct pf_hold *hold, enum part part)
{
	return part == COUNTS && hold->settle_fd >= 0 ? BPF_F_LOCK : BPF_ANY;
}

static int read_only_element(const struct pf_hold *hold, enum part part, void *out,
			     struct pf_error *err)
{
	uint64_t flags = flags_of(hold, part);
	uint32_t zero = 0;

	if (bpf_map_lookup_elem_flags(hold->map_fds[part], &zero, out, flags) < 0)
		return pf_fail_errno(err, "cannot read the hold's %s", pin_names[part]);
	return 0;
}

static int write_only_element(const struct pf_hold *hold, enum part part, const void *value,
			      struct pf_error *err)
{
	uint64_t flags = flags_of(hold, part);
	uint32_t zero = 0;

	if (bpf_map_update_elem(hold->map_fds[part], &zero, value, flags) < 0)
		return pf_fail_errno(err, "cannot write the hold's %s", pin_names[part]);
	return 0;
}

int pf_hold_read_phase(const struct pf_hold *hold, uint32_t *phase, struct pf_error *err)
{
	return read_only_element(hold, PHASE, phase, err);
}

int pf_hold_write_phase(const struct pf_hold *hold, uint32_t phase, struct pf_error *err)
{
	if (phase > PF_HOLD_PHASE_SPEAKING)
		return pf_fail(err, -EINVAL, "%u is no phase of a hold", phase);
	return write_only_element(hold, PHASE, &phase, err);
}

static int check_target(const struct pf_hold *hold, uint32_t family, struct pf_error *err)
{
	if (hold->map_fds[TARGETS] < 0)
		return pf_fail(err, -ENOTSUP, "the hold was made by a version that cannot forward");
	if (family >= PF_HOLD_TARGETS)
		return pf_fail(err, -EINVAL, "%u is no family of a hold's targets", family);
	return 0;
}

int pf_hold_write_target(const struct pf_hold *hold, uint32_t family,
			 const struct pf_target_value *target, struct pf_error *err)
{
	int code = check_target(hold, family, err);

	if (code < 0)
		return code;
	if (bpf_map_update_elem(hold->map_fds[TARGETS], &family, target, BPF_ANY) < 0)
		return pf_fail_errno(err, "cannot write the hold's target");
	return 0;
}

int pf_hold_read_target(const struct pf_hold *hold, uint32_t family, struct pf_target_value *out,
			struct pf_error *err)
{
	int code = check_target(hold, family, err);

	if (code < 0)
		return code;
	if (bpf_map_lookup_elem(hold->map_fds[TARGETS], &family, out) < 0)
		return pf_fail_errno(err, "cannot read the hold's target");
	return 0;
}

int pf_hold_read_settings(const struct pf_hold *hold, struct pf_hold_settings *out,
			  struct pf_error *err)
{
	return read_only_element(hold, CONFIG, out, err);
}

int pf_hold_read_counters(const struct pf_hold *hold, struct pf_hold_counters *out,
			  struct pf_error *err)
{
	return read_only_element(hold, COUNTS, out, err);
}

int pf_hold_read_addresses(const struct pf_hold *hold, uint8_t *out, size_t *count,
			   struct pf_error *err)
{
	const uint8_t *previous = NULL;
	size_t found = 0;

	while (found < PF_HOLD_ADDRESSES_MAX) {
		uint8_t *next = out + found * 16;

		if (bpf_map_get_next_key(hold->map_fds[ADDRESSES], previous, next) < 0) {
			if (errno == ENOENT)
				break;
			return pf_fail_errno(err, "cannot list the pod's addresses");
		}
		previous = next;
		found++;
	}
	*count = found;
	return 0;
}

/* Stops the consuming after one event. */
static int take(void *context, void *data, size_t bytes)
{
	if (bytes >= sizeof(struct pf_hold_waking))
		memcpy(context, data, sizeof(struct pf_hold_waking));
	return -ECANCELED;
}

int pf_hold_take_event(const struct pf_hold *hold, struct pf_hold_waking *out, struct pf_error *err)
{
	struct ring_buffer *ring = ring_buffer__new(hold->map_fds[EVENTS], take, out, NULL);
	int code;

	if (!ring)
		return pf_fail_errno(err, "cannot map the hold's events");
	code = ring_buffer__consume(ring);
	ring_buffer__free(ring);
	if (code == -ECANCELED)
		return 1;
	if (code < 0)
		return pf_fail(err, code, "cannot read the hold's events: %s", strerror(-code));
	return 0;
}

static int run(int program_fd, const void *frame, uint32_t frame_bytes, uint32_t mark,
	       uint32_t *verdict, struct pf_error *err)
{
	struct __sk_buff context = {.mark = mark};
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame, .data_size_in = frame_bytes,
		    .repeat = 1, .ctx_in = &context, .ctx_size_in = sizeof(context));

	if (bpf_prog_test_run_opts(program_fd, &opts) < 0)
		return pf_fail_errno(err, "the kernel does not run the program on %u bytes",
				     frame_bytes);
	*verdict = opts.retval;
	return 0;
}

/* For programs of a version without the lock, as it did: the counts alone decide. */
static int settle_by_counts(const struct pf_hold *hold, uint32_t *phase, struct pf_error *err)
{
	struct pf_hold_counters counters = {0};
	int code = pf_hold_read_phase(hold, phase, err);

	if (code == 0)
		code = pf_hold_read_counters(hold, &counters, err);
	if (code < 0 || counters.in_packets != counters.out_packets)
		return code;
	if (*phase == PF_HOLD_PHASE_RELEASING)
		*phase = PF_HOLD_PHASE_PASS;
	else if (*phase == PF_HOLD_PHASE_FORWARDING)
		*phase = PF_HOLD_PHASE_FORWARD;
	else
		return 0;
	return pf_hold_write_phase(hold, *phase, err);
}

int pf_hold_settle(const struct pf_hold *hold, uint32_t *phase, struct pf_error *err)
{
	static const uint8_t frame[64]; /* the kernel wants one, the program does not */

	if (hold->settle_fd < 0)
		return settle_by_counts(hold, phase, err);
	return run(hold->settle_fd, frame, sizeof(frame), 0, phase, err);
}

int pf_hold_rearm(const struct pf_hold *hold, struct pf_error *err)
{
	struct pf_hold_counts none = {0};
	struct pf_hold_waking old;
	uint32_t zero = 0;
	int code;

	do
		code = pf_hold_take_event(hold, &old, err);
	while (code > 0);
	if (code == 0)
		code = write_only_element(hold, RAISED, &zero, err);
	if (code == 0)
		code = write_only_element(hold, COUNTS, &none, err);
	return code;
}

int pf_hold_listen_again(const struct pf_hold *hold, struct pf_error *err)
{
	struct pollfd events = {.fd = hold->map_fds[EVENTS], .events = POLLIN};
	uint32_t zero = 0;
	int ready = poll(&events, 1, 0);

	if (ready < 0)
		return pf_fail_errno(err, "cannot poll the hold's events");
	return ready ? 0 : write_only_element(hold, RAISED, &zero, err);
}

int pf_hold_test_run(const struct pf_hold *hold, int program, const void *frame, size_t frame_bytes,
		     uint32_t mark, uint32_t *verdict, struct pf_error *err)
{
	if (program < 0 || program >= PF_HOLD_ATTACHMENTS)
		return pf_fail(err, -EINVAL, "%d is no program of the hold", program);
	if (frame_bytes > UINT32_MAX)
		return pf_fail(err, -EMSGSIZE, "a frame of %zu bytes is too long", frame_bytes);
	return run(hold->program_fds[program], frame, (uint32_t)frame_bytes, mark, verdict, err);
}
