// SPDX-License-Identifier: Apache-2.0
/* Owns the making and the taking away of a hold's programs, maps, links and pins. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "cleanup.h"
#include "error.h"
#include "hold.skel.h"
#include "hold_pins.h"
#include "hold_shared.h"
#include "kernel_abi.h"
#include "podferry/hold.h"

/* Below 6.6 the programs are filters of a clsact qdisc, found again by these numbers: in egress
 * behind those of others, in ingress before them. */
#define FILTER_HANDLE           0x7066u
#define FILTER_PRIORITY_EGRESS  0xbf00u
#define FILTER_PRIORITY_INGRESS 1u

#define REPLY_BYTES 32768

const struct pf_hold_attachment pf_hold_attachments[PF_HOLD_ATTACHMENTS] = {
	[PF_HOLD_PROGRAM_TO_POD] = {"to_pod", "link_to_pod", 1, 0},
	[PF_HOLD_PROGRAM_FROM_POD] = {"from_pod", "link_from_pod", 0, 0},
	[PF_HOLD_PROGRAM_FAR_END] = {"far_end", "link_far_end", 0, 1},
};

int pf_hold_pin_path(char *out, size_t out_bytes, const char *pin_dir, const char *name,
		     struct pf_error *err)
{
	int length = snprintf(out, out_bytes, "%s/%s", pin_dir, name);

	if (length < 0 || (size_t)length >= out_bytes)
		return pf_fail(err, -ENAMETOOLONG, "pin directory of %d bytes is too long", length);
	return 0;
}

int pf_hold_get_pin(const char *pin_dir, const char *name, struct pf_error *err)
{
	char path[PATH_MAX];
	int code = pf_hold_pin_path(path, sizeof(path), pin_dir, name, err);
	int fd;

	if (code < 0)
		return code;
	fd = bpf_obj_get(path);
	if (fd < 0)
		return pf_fail_errno(err, "cannot open the pin %s", path);
	return fd;
}

static int pin(int fd, const char *pin_dir, const char *name, struct pf_error *err)
{
	char path[PATH_MAX];
	int code = pf_hold_pin_path(path, sizeof(path), pin_dir, name, err);

	if (code < 0)
		return code;
	if (bpf_obj_pin(fd, path) < 0)
		return pf_fail_errno(err, "cannot pin %s", path);
	return 0;
}

static int pin_all(struct hold_bpf *skeleton, const char *pin_dir, struct pf_error *err)
{
	const struct {
		int fd;
		const char *name;
	} pins[] = {
		{bpf_map__fd(skeleton->maps.pf_hold_config), PF_PIN_CONFIG},
		{bpf_map__fd(skeleton->maps.pf_hold_phase), PF_PIN_PHASE},
		{bpf_map__fd(skeleton->maps.pf_hold_counts), PF_PIN_COUNTS},
		{bpf_map__fd(skeleton->maps.pf_hold_raised), PF_PIN_RAISED},
		{bpf_map__fd(skeleton->maps.pf_hold_addresses), PF_PIN_ADDRESSES},
		{bpf_map__fd(skeleton->maps.pf_hold_events), PF_PIN_EVENTS},
		{bpf_map__fd(skeleton->maps.pf_hold_targets), PF_PIN_TARGETS},
		{bpf_program__fd(skeleton->progs.hold_to_pod), "to_pod"},
		{bpf_program__fd(skeleton->progs.hold_from_pod), "from_pod"},
		{bpf_program__fd(skeleton->progs.hold_far_end), "far_end"},
		{bpf_program__fd(skeleton->progs.hold_settle), PF_PIN_SETTLE},
	};

	for (size_t i = 0; i < sizeof(pins) / sizeof(pins[0]); i++) {
		int code = pin(pins[i].fd, pin_dir, pins[i].name, err);

		if (code < 0)
			return code;
	}
	return 0;
}

static int write_config(int map_fd, const struct pf_hold_settings *settings, struct pf_error *err)
{
	uint32_t zero = 0;

	if (bpf_map_update_elem(map_fd, &zero, settings, BPF_ANY) < 0)
		return pf_fail_errno(err, "cannot write the hold's configuration");
	return 0;
}

static int write_addresses(int map_fd, const uint8_t *addresses, size_t count, struct pf_error *err)
{
	uint32_t present = 1;

	for (size_t i = 0; i < count; i++)
		if (bpf_map_update_elem(map_fd, addresses + i * 16, &present, BPF_ANY) < 0)
			return pf_fail_errno(err, "cannot write the pod's address %zu", i);
	return 0;
}

static uint32_t device_of(const struct pf_hold_attachment *attachment,
			  const struct pf_hold_settings *settings)
{
	return attachment->is_far_end ? settings->far_ifindex : settings->pod_ifindex;
}

/* 0, -EINVAL where the kernel has no tcx, or another failure. In ingress we come first: what a
 * sleeping pod's kernel says is nobody's business; in egress last, as what passes through the plug
 * meets no further program. */
static int attach_tcx(int program_fd, uint32_t ifindex, const struct pf_hold_attachment *attachment,
		      const char *pin_dir, struct pf_error *err)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts,
		    .flags = attachment->is_egress ? 0 : PF_BPF_F_BEFORE);
	enum bpf_attach_type type = (enum bpf_attach_type)(
		attachment->is_egress ? PF_BPF_TCX_EGRESS : PF_BPF_TCX_INGRESS);
	PF_AUTO_FD int link_fd = bpf_link_create(program_fd, (int)ifindex, type, &opts);

	if (link_fd < 0)
		return pf_fail_errno(err, "cannot attach %s to device %u by tcx",
				     attachment->program_pin, ifindex);
	return pin(link_fd, pin_dir, attachment->link_pin, err);
}

static struct bpf_tc_opts filter_of(const struct pf_hold_attachment *attachment)
{
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = FILTER_HANDLE,
		    .priority = attachment->is_egress ? FILTER_PRIORITY_EGRESS
						      : FILTER_PRIORITY_INGRESS);

	return opts;
}

static int attach_clsact(int program_fd, uint32_t ifindex,
			 const struct pf_hold_attachment *attachment, struct pf_error *err)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex,
		    .attach_point = attachment->is_egress ? BPF_TC_EGRESS : BPF_TC_INGRESS);
	struct bpf_tc_opts opts = filter_of(attachment);
	int code;

	opts.prog_fd = program_fd;
	code = bpf_tc_attach(&hook, &opts);
	if (code < 0)
		return pf_fail(err, code, "cannot attach %s to device %u by clsact: %s",
			       attachment->program_pin, ifindex, strerror(-code));
	return 0;
}

/* 1 if the qdisc was made, 0 if it was there. */
static int make_clsact(uint32_t ifindex, struct pf_error *err)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex,
		    .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
	int code = bpf_tc_hook_create(&hook);

	if (code == -EEXIST)
		return 0;
	if (code < 0)
		return pf_fail(err, code, "cannot give device %u a clsact qdisc: %s", ifindex,
			       strerror(-code));
	return 1;
}

static int attach_all_clsact(const int *program_fds, int config_fd,
			     struct pf_hold_settings *settings, struct pf_error *err)
{
	int made = make_clsact(settings->pod_ifindex, err);
	int code = made < 0 ? made : make_clsact(settings->far_ifindex, err);

	if (code < 0)
		return code;
	settings->flags |= PF_HOLD_FLAG_CLSACT;
	if (made)
		settings->flags |= PF_HOLD_FLAG_CLSACT_IS_OURS;
	code = write_config(config_fd, settings, err);
	for (int i = PF_HOLD_ATTACHMENTS - 1; code == 0 && i >= 0; i--)
		code = attach_clsact(program_fds[i], device_of(&pf_hold_attachments[i], settings),
				     &pf_hold_attachments[i], err);
	return code;
}

static int attach_all(struct hold_bpf *skeleton, const char *pin_dir,
		      struct pf_hold_settings *settings, struct pf_error *err)
{
	const int program_fds[PF_HOLD_ATTACHMENTS] = {
		[PF_HOLD_PROGRAM_TO_POD] = bpf_program__fd(skeleton->progs.hold_to_pod),
		[PF_HOLD_PROGRAM_FROM_POD] = bpf_program__fd(skeleton->progs.hold_from_pod),
		[PF_HOLD_PROGRAM_FAR_END] = bpf_program__fd(skeleton->progs.hold_far_end),
	};
	int config_fd = bpf_map__fd(skeleton->maps.pf_hold_config);
	int code = 0;

	if (settings->flags & PF_HOLD_FLAG_CLSACT)
		return attach_all_clsact(program_fds, config_fd, settings, err);
	/* The far end first: nothing may enter a plug that has nobody at its end. */
	for (int i = PF_HOLD_ATTACHMENTS - 1; code == 0 && i >= 0; i--) {
		const struct pf_hold_attachment *attachment = &pf_hold_attachments[i];

		code = attach_tcx(program_fds[i], device_of(attachment, settings), attachment,
				  pin_dir, err);
		/* Before 6.6 the attach type is unknown. */
		if (code == -EINVAL && i == PF_HOLD_ATTACHMENTS - 1)
			return attach_all_clsact(program_fds, config_fd, settings, err);
	}
	return code;
}

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level;
	(void)format;
	(void)args;
	return 0;
}

static int load(struct hold_bpf **out, char *verifier_log, size_t verifier_log_bytes,
		struct pf_error *err)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts);
	struct hold_bpf *skeleton;
	int code;

	if (verifier_log && verifier_log_bytes) {
		verifier_log[0] = '\0';
		opts.kernel_log_buf = verifier_log;
		opts.kernel_log_size = verifier_log_bytes;
	}
	skeleton = hold_bpf__open_opts(&opts);
	if (!skeleton)
		return pf_fail_errno(err, "cannot open the hold object");
	code = hold_bpf__load(skeleton);
	if (code < 0) {
		hold_bpf__destroy(skeleton);
		return pf_fail(err, code, "the kernel does not load the hold programs: %s",
			       strerror(-code));
	}
	*out = skeleton;
	return 0;
}

int pf_hold_install(const char *pin_dir, const struct pf_hold_settings *settings,
		    const uint8_t *addresses, size_t address_count, char *verifier_log,
		    size_t verifier_log_bytes, struct pf_error *err)
{
	struct pf_hold_settings wanted = *settings;
	struct hold_bpf *skeleton = NULL;
	libbpf_print_fn_t before;
	int code;

	if (address_count > PF_HOLD_ADDRESSES_MAX)
		return pf_fail(err, -E2BIG, "%zu addresses are more than %d", address_count,
			       PF_HOLD_ADDRESSES_MAX);
	before = libbpf_set_print(quiet); /* what it would print is in the error and the log */
	code = load(&skeleton, verifier_log, verifier_log_bytes, err);
	if (code == 0)
		code = write_config(bpf_map__fd(skeleton->maps.pf_hold_config), &wanted, err);
	if (code == 0)
		code = write_addresses(bpf_map__fd(skeleton->maps.pf_hold_addresses), addresses,
				       address_count, err);
	if (code == 0)
		code = pin_all(skeleton, pin_dir, err);
	if (code == 0)
		code = attach_all(skeleton, pin_dir, &wanted, err);
	libbpf_set_print(before);
	hold_bpf__destroy(skeleton);
	return code;
}

/* Whether anybody has a filter on one side of the device's clsact qdisc; true also if the kernel
 * does not say. */
static bool has_filters(uint32_t ifindex, uint32_t minor)
{
	struct {
		struct nlmsghdr header;
		struct tcmsg body;
	} request = {
		.header = {.nlmsg_len = sizeof(request),
			   .nlmsg_type = RTM_GETTFILTER,
			   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		.body = {.tcm_ifindex = (int)ifindex, .tcm_parent = TC_H_MAKE(TC_H_CLSACT, minor)},
	};
	char reply[REPLY_BYTES];
	const struct nlmsghdr *header = (const struct nlmsghdr *)reply;
	PF_AUTO_FD int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0 || send(fd, &request, sizeof(request), 0) < 0 ||
	    recv(fd, reply, sizeof(reply), 0) < (ssize_t)sizeof(*header))
		return true;
	return header->nlmsg_type != NLMSG_DONE; /* the first message tells it */
}

/* The qdisc we have made stays if somebody else has come to use it. */
static void destroy_clsact(uint32_t ifindex)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex,
		    .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);

	if (!has_filters(ifindex, TC_H_MIN_INGRESS) && !has_filters(ifindex, TC_H_MIN_EGRESS))
		bpf_tc_hook_destroy(&hook);
}

static void detach_clsact(const struct pf_hold_settings *settings)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)settings->pod_ifindex);
	libbpf_print_fn_t before = libbpf_set_print(quiet); /* the device may be gone */

	for (int i = 0; i < PF_HOLD_ATTACHMENTS; i++) {
		const struct pf_hold_attachment *attachment = &pf_hold_attachments[i];
		struct bpf_tc_opts opts = filter_of(attachment);

		if (attachment->is_far_end) /* goes with its device */
			continue;
		hook.attach_point = attachment->is_egress ? BPF_TC_EGRESS : BPF_TC_INGRESS;
		bpf_tc_detach(&hook, &opts);
	}
	if (settings->flags & PF_HOLD_FLAG_CLSACT_IS_OURS)
		destroy_clsact(settings->pod_ifindex);
	libbpf_set_print(before);
}

/* A link whose pin is merely unlinked goes some time later; detaching is at once. */
static void detach(const char *pin_dir)
{
	struct pf_hold_settings settings;
	uint32_t zero = 0;
	PF_AUTO_FD int config_fd = pf_hold_get_pin(pin_dir, PF_PIN_CONFIG, NULL);

	for (int i = 0; i < PF_HOLD_ATTACHMENTS; i++) {
		PF_AUTO_FD int link_fd =
			pf_hold_get_pin(pin_dir, pf_hold_attachments[i].link_pin, NULL);

		if (link_fd >= 0)
			bpf_link_detach(link_fd);
	}
	if (config_fd >= 0 && bpf_map_lookup_elem(config_fd, &zero, &settings) == 0 &&
	    (settings.flags & PF_HOLD_FLAG_CLSACT))
		detach_clsact(&settings);
}

/* The configuration goes last: it says how the rest was attached. */
static int unlink_pins(const char *pin_dir, struct pf_error *err)
{
	DIR *directory = opendir(pin_dir);
	struct dirent *entry;
	int code = 0;

	if (!directory)
		return pf_fail_errno(err, "cannot list %s", pin_dir);
	while ((entry = readdir(directory))) {
		if (entry->d_name[0] == '.' || strcmp(entry->d_name, PF_PIN_CONFIG) == 0)
			continue;
		if (unlinkat(dirfd(directory), entry->d_name, 0) < 0 && errno != ENOENT)
			code = pf_fail_errno(err, "cannot unpin %s/%s", pin_dir, entry->d_name);
	}
	if (code == 0 && unlinkat(dirfd(directory), PF_PIN_CONFIG, 0) < 0 && errno != ENOENT)
		code = pf_fail_errno(err, "cannot unpin %s/" PF_PIN_CONFIG, pin_dir);
	closedir(directory);
	return code;
}

int pf_hold_uninstall(const char *pin_dir, struct pf_error *err)
{
	if (access(pin_dir, F_OK) < 0 && errno == ENOENT)
		return 0;
	detach(pin_dir);
	return unlink_pins(pin_dir, err);
}

static int make_parents(const char *path, struct pf_error *err)
{
	char partial[PATH_MAX];
	int code = pf_hold_pin_path(partial, sizeof(partial), path, "", err);

	if (code < 0)
		return code;
	for (char *slash = strchr(partial + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(partial, 0700) < 0 && errno != EEXIST)
			return pf_fail_errno(err, "cannot make the directory %s", partial);
		*slash = '/';
	}
	return 0;
}

int pf_hold_make_pin_dir(const char *root, const char *pin_dir, struct pf_error *err)
{
	struct statfs about;

	if (statfs(root, &about) < 0)
		return pf_fail_errno(err, "%s", root);
	if (about.f_type != BPF_FS_MAGIC && mount("bpf", root, "bpf", 0, "mode=0700") < 0)
		return pf_fail_errno(err, "cannot mount a bpf file system at %s", root);
	return make_parents(pin_dir, err);
}
