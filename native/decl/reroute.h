/* SPDX-License-Identifier: Apache-2.0 */
struct pf_reroute;

static const int PF_REROUTE_MAP_ADDRESSES;
static const int PF_REROUTE_MAP_FLOWS;
static const int PF_REROUTE_MAP_NODES;

static const int PF_REROUTE_PROGRAM_INGRESS;
static const int PF_REROUTE_PROGRAM_EGRESS;
static const int PF_REROUTE_PROGRAM_FROM_POD;
static const int PF_REROUTE_PROGRAM_XDP;

static const int PF_REROUTE_XDP_ANY;
static const int PF_REROUTE_XDP_GENERIC;
static const int PF_REROUTE_XDP_NATIVE;

static const int PF_REROUTE_NODE_PEER;
static const int PF_REROUTE_NODE_SELF;

static const int PF_REROUTE_FLAG_OWN_ONLY;

struct pf_reroute_key {
	uint8_t source[16];
	uint8_t destination[16];
	uint16_t source_port;
	uint16_t destination_port;
	uint8_t protocol;
	uint8_t padding[3];
};

struct pf_reroute_value {
	struct pf_target_value target;
	uint64_t epoch;
	uint64_t expires_ns;
	uint32_t flags;
	uint32_t padding;
	uint64_t packets;
	uint64_t bytes;
};

struct pf_reroute_counters {
	uint64_t sent;
	uint64_t opened;
	uint64_t strange;
	uint64_t expired;
	uint64_t too_long;
	uint64_t failed;
};

int pf_reroute_open(struct pf_reroute **out, const char *pin_dir, char *verifier_log,
		    size_t verifier_log_bytes, struct pf_error *err);

void pf_reroute_close(struct pf_reroute *reroute);

int pf_reroute_attach(const struct pf_reroute *reroute, int program, uint32_t ifindex, int xdp_mode,
		      struct pf_error *err);

int pf_reroute_detach(const char *pin_dir, int program, uint32_t ifindex, struct pf_error *err);

int pf_reroute_uninstall(const char *pin_dir, struct pf_error *err);

int pf_reroute_put(const struct pf_reroute *reroute, int map, const void *key, const void *value,
		   struct pf_error *err);

int pf_reroute_get(const struct pf_reroute *reroute, int map, const void *key, void *value,
		   struct pf_error *err);
int pf_reroute_drop(const struct pf_reroute *reroute, int map, const void *key,
		    struct pf_error *err);

int pf_reroute_next(const struct pf_reroute *reroute, int map, const void *previous, void *key,
		    struct pf_error *err);

int pf_reroute_read_counters(const struct pf_reroute *reroute, struct pf_reroute_counters *out,
			     struct pf_error *err);

int pf_reroute_test_run(const struct pf_reroute *reroute, int program, const void *frame,
			size_t frame_bytes, uint32_t ifindex, uint32_t repeat, void *out,
			size_t *out_bytes, uint32_t *verdict, uint32_t *duration_ns,
			struct pf_error *err);
