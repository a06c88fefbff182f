// SPDX-License-Identifier: Apache-2.0
/* Owns the use of the rerouting programs: their maps, their counters, a run without a device. */
#include "podferry/reroute.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "error.h"
#include "reroute_object.h"
#include "reroute_shared.h"

_Static_assert(sizeof(struct pf_reroute_key) == sizeof(struct pf_reroute_flow) &&
		       sizeof(struct pf_reroute_value) == sizeof(struct pf_reroute_entry) &&
		       sizeof(struct pf_reroute_counters) == sizeof(struct pf_reroute_counts),
	       "the public structures mirror the maps'");
_Static_assert((int)PF_REROUTE_NODE_PEER == PF_REROUTE_PEER &&
		       (int)PF_REROUTE_NODE_SELF == PF_REROUTE_SELF &&
		       PF_REROUTE_FLAG_OWN_ONLY == PF_REROUTE_OWN_ONLY,
	       "the public numbers are the programs'");

static int map_fd(const struct pf_reroute *reroute, int map, struct pf_error *err)
{
	switch (map) {
	case PF_REROUTE_MAP_ADDRESSES:
		return bpf_map__fd(reroute->skeleton->maps.pf_addresses);
	case PF_REROUTE_MAP_FLOWS:
		return bpf_map__fd(reroute->skeleton->maps.pf_flows);
	case PF_REROUTE_MAP_NODES:
		return bpf_map__fd(reroute->skeleton->maps.pf_nodes);
	default:
		return pf_fail(err, -EINVAL, "%d is no map of rerouting", map);
	}
}

int pf_reroute_put(const struct pf_reroute *reroute, int map, const void *key, const void *value,
		   struct pf_error *err)
{
	int fd = map_fd(reroute, map, err);

	if (fd < 0)
		return fd;
	if (bpf_map_update_elem(fd, key, value, BPF_ANY) == 0)
		return 0;
	if (errno == E2BIG)
		return pf_fail(err, -E2BIG, "the map of rerouting is full");
	return pf_fail_errno(err, "cannot write an entry of rerouting");
}

int pf_reroute_get(const struct pf_reroute *reroute, int map, const void *key, void *value,
		   struct pf_error *err)
{
	int fd = map_fd(reroute, map, err);

	if (fd < 0)
		return fd;
	if (bpf_map_lookup_elem(fd, key, value) < 0)
		return pf_fail_errno(err, "cannot read an entry of rerouting");
	return 0;
}

int pf_reroute_drop(const struct pf_reroute *reroute, int map, const void *key,
		    struct pf_error *err)
{
	int fd = map_fd(reroute, map, err);

	if (fd < 0)
		return fd;
	if (bpf_map_delete_elem(fd, key) < 0)
		return pf_fail_errno(err, "cannot delete an entry of rerouting");
	return 0;
}

int pf_reroute_next(const struct pf_reroute *reroute, int map, const void *previous, void *key,
		    struct pf_error *err)
{
	int fd = map_fd(reroute, map, err);

	if (fd < 0)
		return fd;
	if (bpf_map_get_next_key(fd, previous, key) == 0)
		return 1;
	if (errno == ENOENT)
		return 0;
	return pf_fail_errno(err, "cannot list the entries of rerouting");
}

int pf_reroute_read_counters(const struct pf_reroute *reroute, struct pf_reroute_counters *out,
			     struct pf_error *err)
{
	int cpus = libbpf_num_possible_cpus();
	PF_AUTO_FREE struct pf_reroute_counters *values = NULL;
	uint64_t *sums = (uint64_t *)out;
	uint32_t zero = 0;

	if (cpus < 0)
		return pf_fail(err, cpus, "cannot tell the number of possible CPUs");
	values = calloc((size_t)cpus, sizeof(*values));
	if (!values)
		return pf_fail(err, -ENOMEM, "out of memory");
	if (bpf_map_lookup_elem(bpf_map__fd(reroute->skeleton->maps.pf_counts), &zero, values) < 0)
		return pf_fail_errno(err, "cannot read the counters of rerouting");
	memset(out, 0, sizeof(*out));
	for (int cpu = 0; cpu < cpus; cpu++)
		for (size_t i = 0; i < sizeof(*out) / sizeof(*sums); i++)
			sums[i] += ((const uint64_t *)&values[cpu])[i];
	return 0;
}

int pf_reroute_test_run(const struct pf_reroute *reroute, int program, const void *frame,
			size_t frame_bytes, uint32_t ifindex, uint32_t repeat, void *out,
			size_t *out_bytes, uint32_t *verdict, uint32_t *duration_ns,
			struct pf_error *err)
{
	struct __sk_buff skb = {.ifindex = ifindex};
	struct xdp_md xdp = {.ingress_ifindex = ifindex, .data_end = (uint32_t)frame_bytes};
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame, .data_out = out,
		    .repeat = (int)repeat);
	int fd = pf_reroute_program_fd(reroute, program);

	if (fd < 0)
		return pf_fail(err, -EINVAL, "%d is no program of rerouting", program);
	if (frame_bytes > UINT32_MAX || *out_bytes > UINT32_MAX)
		return pf_fail(err, -EMSGSIZE, "a frame of %zu bytes is too long", frame_bytes);
	opts.data_size_in = (uint32_t)frame_bytes;
	opts.data_size_out = (uint32_t)*out_bytes;
	if (program == PF_REROUTE_PROGRAM_XDP) {
		opts.ctx_in = &xdp;
		opts.ctx_size_in = sizeof(xdp);
	} else {
		opts.ctx_in = &skb;
		opts.ctx_size_in = sizeof(skb);
	}
	if (bpf_prog_test_run_opts(fd, &opts) < 0)
		return pf_fail_errno(err, "the kernel does not run the program on %zu bytes",
				     frame_bytes);
	*out_bytes = opts.data_size_out;
	*verdict = opts.retval;
	*duration_ns = opts.duration;
	return 0;
}
