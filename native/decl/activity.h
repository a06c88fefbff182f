/* SPDX-License-Identifier: Apache-2.0 */
struct pf_activity;

struct pf_activity_direction {
	uint64_t last_ns;
	uint64_t packets;
	uint64_t bytes;
};

struct pf_activity_record {
	struct pf_activity_direction received;
	struct pf_activity_direction sent;
};

static const int PF_ACTIVITY_XDP;
static const int PF_ACTIVITY_TC;

int pf_activity_open(struct pf_activity **out, const char *pin_dir, char *verifier_log,
		     size_t verifier_log_bytes, struct pf_error *err);
void pf_activity_close(struct pf_activity *activity);
int pf_activity_program_fd(const struct pf_activity *activity, int program);
int pf_activity_watch(struct pf_activity *activity, const uint8_t address[16],
		      struct pf_error *err);
int pf_activity_unwatch(struct pf_activity *activity, const uint8_t address[16],
			struct pf_error *err);
int pf_activity_read(struct pf_activity *activity, const uint8_t address[16],
		     struct pf_activity_record *out, struct pf_error *err);
int pf_activity_test_run(struct pf_activity *activity, int program, const void *frame,
			 size_t frame_bytes, uint32_t *verdict, struct pf_error *err);
