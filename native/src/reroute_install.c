// SPDX-License-Identifier: Apache-2.0
/* Owns the loading, attaching and taking away of the rerouting programs and their pins. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/if_link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "error.h"
#include "kernel_abi.h"
#include "reroute_object.h"

#define LINK_PREFIX "link_"

static const char *const program_names[] = {
	[PF_REROUTE_PROGRAM_INGRESS] = "ingress",
	[PF_REROUTE_PROGRAM_EGRESS] = "egress",
	[PF_REROUTE_PROGRAM_FROM_POD] = "from_pod",
	[PF_REROUTE_PROGRAM_XDP] = "xdp",
};

#define PROGRAMS ((int)(sizeof(program_names) / sizeof(program_names[0])))

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level;
	(void)format;
	(void)args;
	return 0;
}

int pf_reroute_program_fd(const struct pf_reroute *reroute, int program)
{
	switch (program) {
	case PF_REROUTE_PROGRAM_INGRESS:
		return bpf_program__fd(reroute->skeleton->progs.reroute_ingress);
	case PF_REROUTE_PROGRAM_EGRESS:
		return bpf_program__fd(reroute->skeleton->progs.reroute_egress);
	case PF_REROUTE_PROGRAM_FROM_POD:
		return bpf_program__fd(reroute->skeleton->progs.reroute_from_pod);
	case PF_REROUTE_PROGRAM_XDP:
		return bpf_program__fd(reroute->skeleton->progs.reroute_xdp);
	default:
		return -EINVAL;
	}
}

static int path_of(char *out, size_t out_bytes, const char *pin_dir, const char *name,
		   struct pf_error *err)
{
	int length = snprintf(out, out_bytes, "%s/%s", pin_dir, name);

	if (length < 0 || (size_t)length >= out_bytes)
		return pf_fail(err, -ENAMETOOLONG, "pin directory of %d bytes is too long", length);
	return 0;
}

static int pin_maps(struct reroute_bpf *skeleton, const char *pin_dir, struct pf_error *err)
{
	struct bpf_map *map;

	bpf_object__for_each_map(map, skeleton->obj)
	{
		char path[PATH_MAX];
		int code;

		if (bpf_map__is_internal(map))
			continue;
		code = path_of(path, sizeof(path), pin_dir, bpf_map__name(map), err);
		if (code == 0)
			code = bpf_map__set_pin_path(map, path);
		if (code < 0)
			return pf_fail(err, code, "cannot pin the map %s", bpf_map__name(map));
	}
	return 0;
}

static int load(struct pf_reroute *reroute, char *verifier_log, size_t verifier_log_bytes,
		struct pf_error *err)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts);
	int code;

	if (verifier_log && verifier_log_bytes) {
		verifier_log[0] = '\0';
		opts.kernel_log_buf = verifier_log;
		opts.kernel_log_size = verifier_log_bytes;
	}
	reroute->skeleton = reroute_bpf__open_opts(&opts);
	if (!reroute->skeleton)
		return pf_fail_errno(err, "cannot open the reroute object");
	code = pin_maps(reroute->skeleton, reroute->pin_dir, err);
	if (code < 0)
		return code;
	code = reroute_bpf__load(reroute->skeleton);
	if (code < 0)
		return pf_fail(err, code, "the kernel does not load the rerouting programs: %s",
			       strerror(-code));
	return 0;
}

int pf_reroute_open(struct pf_reroute **out, const char *pin_dir, char *verifier_log,
		    size_t verifier_log_bytes, struct pf_error *err)
{
	struct pf_reroute *reroute = calloc(1, sizeof(*reroute));
	libbpf_print_fn_t before;
	int code;

	if (!reroute)
		return pf_fail(err, -ENOMEM, "out of memory");
	reroute->pin_dir = strdup(pin_dir);
	if (!reroute->pin_dir) {
		free(reroute);
		return pf_fail(err, -ENOMEM, "out of memory");
	}
	before = libbpf_set_print(quiet); /* what it would print is in the error and the log */
	code = load(reroute, verifier_log, verifier_log_bytes, err);
	libbpf_set_print(before);
	if (code < 0) {
		pf_reroute_close(reroute);
		return code;
	}
	*out = reroute;
	return 0;
}

void pf_reroute_close(struct pf_reroute *reroute)
{
	if (!reroute)
		return;
	reroute_bpf__destroy(reroute->skeleton);
	free(reroute->pin_dir);
	free(reroute);
}

static int link_path(char *out, size_t out_bytes, const char *pin_dir, int program,
		     uint32_t ifindex, struct pf_error *err)
{
	char name[64];

	if (program < 0 || program >= PROGRAMS)
		return pf_fail(err, -EINVAL, "%d is no program of rerouting", program);
	snprintf(name, sizeof(name), LINK_PREFIX "%s_%u", program_names[program], ifindex);
	return path_of(out, out_bytes, pin_dir, name, err);
}

static int create_link(int program_fd, int program, uint32_t ifindex, int xdp_mode)
{
	static const uint32_t xdp_flags[] = {
		[PF_REROUTE_XDP_ANY] = 0,
		[PF_REROUTE_XDP_GENERIC] = XDP_FLAGS_SKB_MODE,
		[PF_REROUTE_XDP_NATIVE] = XDP_FLAGS_DRV_MODE,
	};
	LIBBPF_OPTS(bpf_link_create_opts, opts);
	enum bpf_attach_type type = program == PF_REROUTE_PROGRAM_EGRESS
					    ? (enum bpf_attach_type)PF_BPF_TCX_EGRESS
					    : (enum bpf_attach_type)PF_BPF_TCX_INGRESS;

	if (program == PF_REROUTE_PROGRAM_XDP) {
		type = BPF_XDP;
		opts.flags = xdp_flags[xdp_mode];
	}
	return bpf_link_create(program_fd, (int)ifindex, type, &opts);
}

/* 0, or -ENOENT where there is no link that still lives. */
static int replace_program(const char *path, int program_fd)
{
	PF_AUTO_FD int link_fd = bpf_obj_get(path);

	if (link_fd < 0)
		return -ENOENT;
	if (bpf_link_update(link_fd, program_fd, NULL) == 0)
		return 0;
	unlink(path); /* its device is gone, and this index is another's now */
	return -ENOENT;
}

int pf_reroute_attach(const struct pf_reroute *reroute, int program, uint32_t ifindex, int xdp_mode,
		      struct pf_error *err)
{
	int program_fd = pf_reroute_program_fd(reroute, program);
	PF_AUTO_FD int link_fd = -1;
	char path[PATH_MAX];
	int code = link_path(path, sizeof(path), reroute->pin_dir, program, ifindex, err);

	if (code < 0)
		return code;
	if (xdp_mode < PF_REROUTE_XDP_ANY || xdp_mode > PF_REROUTE_XDP_NATIVE)
		return pf_fail(err, -EINVAL, "%d is no mode of XDP", xdp_mode);
	if (replace_program(path, program_fd) == 0)
		return 0;
	link_fd = create_link(program_fd, program, ifindex, xdp_mode);
	if (link_fd < 0)
		return pf_fail_errno(err, "cannot attach %s to device %u", program_names[program],
				     ifindex);
	if (bpf_obj_pin(link_fd, path) < 0)
		return pf_fail_errno(err, "cannot pin %s", path);
	return 0;
}

/* A link whose pin is merely unlinked goes some time later; detaching is at once. */
static int take_off(const char *path, struct pf_error *err)
{
	PF_AUTO_FD int fd = bpf_obj_get(path);

	if (fd >= 0)
		bpf_link_detach(fd); /* fails where the device is gone, or for a map */
	if (unlink(path) < 0)
		return pf_fail_errno(err, "cannot unpin %s", path);
	return 0;
}

int pf_reroute_detach(const char *pin_dir, int program, uint32_t ifindex, struct pf_error *err)
{
	char path[PATH_MAX];
	int code = link_path(path, sizeof(path), pin_dir, program, ifindex, err);

	return code < 0 ? code : take_off(path, err);
}

/* Links first: a program without its maps would pass everything, but a map that is unpinned while a
 * program uses it could not be found again. */
int pf_reroute_uninstall(const char *pin_dir, struct pf_error *err)
{
	int code = 0;

	for (int links = 1; links >= 0; links--) {
		DIR *directory = opendir(pin_dir);
		const struct dirent *entry;

		if (!directory)
			return errno == ENOENT ? 0 : pf_fail_errno(err, "cannot list %s", pin_dir);
		while ((entry = readdir(directory))) {
			char path[PATH_MAX];
			int is_link = strncmp(entry->d_name, LINK_PREFIX, strlen(LINK_PREFIX)) == 0;

			if (entry->d_name[0] == '.' || is_link != links)
				continue;
			if (path_of(path, sizeof(path), pin_dir, entry->d_name, err) < 0 ||
			    take_off(path, err) < 0)
				code = -EIO;
		}
		closedir(directory);
	}
	return code;
}
