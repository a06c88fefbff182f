/* SPDX-License-Identifier: Apache-2.0 */
struct pf_hold;

static const int PF_HOLD_ADDRESSES_MAX;
static const int PF_HOLD_TARGETS_MAX;

static const int PF_HOLD_PHASE_PASS;
static const int PF_HOLD_PHASE_HELD;
static const int PF_HOLD_PHASE_RELEASING;
static const int PF_HOLD_PHASE_FORWARDING;
static const int PF_HOLD_PHASE_FORWARD;
static const int PF_HOLD_PHASE_SPEAKING;

static const int PF_HOLD_FLAG_WAKE_ON_ICMP;
static const int PF_HOLD_FLAG_SHARED_DEVICE;
static const int PF_HOLD_FLAG_DELIVER_PEER;
static const int PF_HOLD_FLAG_CLSACT;
static const int PF_HOLD_FLAG_CLSACT_IS_OURS;

struct pf_hold_settings {
	uint64_t max_bytes;
	uint32_t max_packets;
	uint32_t flags;
	uint32_t pod_ifindex;
	uint32_t plug_ifindex;
	uint32_t far_ifindex;
	uint8_t pod_mac[6];
	uint8_t padding[2];
};

struct pf_hold_counters {
	uint64_t in_packets;
	uint64_t in_bytes;
	uint64_t out_packets;
	uint64_t out_bytes;
	uint64_t over_packets;
	uint64_t over_bytes;
	uint64_t quiet_over_packets;
	uint64_t shielded_packets;
	uint64_t shielded_resets;
	uint64_t shielded_icmp;
	uint64_t strays;
	uint64_t looped;
	uint64_t first_in_ns;
	uint64_t last_in_ns;
	uint64_t first_out_ns;
	uint64_t last_out_ns;
	uint64_t forwarded_packets;
	uint64_t bounced_packets;
	uint64_t unsent_packets;
	uint32_t lock;
	uint32_t out_cpu;
};

struct pf_hold_waking {
	uint64_t time_ns;
	uint32_t cause;
	uint16_t source_port;
	uint16_t destination_port;
	uint8_t source[16];
	uint8_t destination[16];
	uint8_t protocol;
	uint8_t padding[7];
};

int pf_hold_install(const char *pin_dir, const struct pf_hold_settings *settings,
		    const uint8_t *addresses, size_t address_count, char *verifier_log,
		    size_t verifier_log_bytes, struct pf_error *err);

int pf_hold_uninstall(const char *pin_dir, struct pf_error *err);

int pf_hold_open(struct pf_hold **out, const char *pin_dir, struct pf_error *err);

void pf_hold_close(struct pf_hold *hold);

int pf_hold_phase_fd(const struct pf_hold *hold);

int pf_hold_events_fd(const struct pf_hold *hold);

int pf_hold_read_phase(const struct pf_hold *hold, uint32_t *phase, struct pf_error *err);
int pf_hold_write_phase(const struct pf_hold *hold, uint32_t phase, struct pf_error *err);
int pf_hold_read_settings(const struct pf_hold *hold, struct pf_hold_settings *out,
			  struct pf_error *err);
int pf_hold_read_counters(const struct pf_hold *hold, struct pf_hold_counters *out,
			  struct pf_error *err);

int pf_hold_read_addresses(const struct pf_hold *hold, uint8_t *out, size_t *count,
			   struct pf_error *err);

int pf_hold_write_target(const struct pf_hold *hold, uint32_t family,
			 const struct pf_target_value *target, struct pf_error *err);
int pf_hold_read_target(const struct pf_hold *hold, uint32_t family, struct pf_target_value *out,
			struct pf_error *err);

int pf_hold_settle(const struct pf_hold *hold, uint32_t *phase, struct pf_error *err);

int pf_hold_rearm(const struct pf_hold *hold, struct pf_error *err);

int pf_hold_listen_again(const struct pf_hold *hold, struct pf_error *err);

int pf_hold_take_event(const struct pf_hold *hold, struct pf_hold_waking *out,
		       struct pf_error *err);

static const int PF_HOLD_PROGRAM_TO_POD;
static const int PF_HOLD_PROGRAM_FROM_POD;
static const int PF_HOLD_PROGRAM_FAR_END;

int pf_hold_test_run(const struct pf_hold *hold, int program, const void *frame, size_t frame_bytes,
		     uint32_t mark, uint32_t *verdict, struct pf_error *err);

int pf_hold_make_pin_dir(const char *root, const char *pin_dir, struct pf_error *err);

int pf_hold_find_device(const char *netns_path, const uint8_t address[16], uint32_t *ifindex,
			uint32_t *peer_ifindex, uint8_t mac[6], struct pf_error *err);
