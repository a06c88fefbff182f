/* SPDX-License-Identifier: Apache-2.0 */
struct pf_tracker;

static const int PF_RUN_ZERO;
static const int PF_RUN_SUSPECT;

static const int PF_TRACKER_AUTO;
static const int PF_TRACKER_WP_ASYNC;
static const int PF_TRACKER_HASH;

static const int PF_PAGE_READ;
static const int PF_PAGE_ZERO;
static const int PF_PAGE_GONE;

struct pf_run {
	uint64_t vaddr;
	uint32_t pages;
	uint32_t flags;
};

struct pf_round {
	const struct pf_run *runs;
	size_t run_count;
	const struct pf_run *gone;
	size_t gone_count;
	uint64_t pages;
	uint64_t dirty_pages;
	uint64_t zero_pages;
	uint64_t suspect_pages;
	uint64_t eligible_bytes;
	uint64_t registered_bytes;
	uint64_t scan_ns;
	uint64_t since_ns;
	uint32_t mapping_count;
	uint32_t number;
};

int pf_tracker_open(struct pf_tracker **out, int pid, int mode, struct pf_error *err);

void pf_tracker_close(struct pf_tracker *tracker);

int pf_tracker_mode(const struct pf_tracker *tracker);

const char *pf_tracker_reason(const struct pf_tracker *tracker);

uint64_t pf_tracker_stopped_ns(const struct pf_tracker *tracker);

int pf_tracker_round(struct pf_tracker *tracker, struct pf_round *out, struct pf_error *err);

int pf_tracker_final(struct pf_tracker *tracker, struct pf_round *out, struct pf_error *err);

void pf_tracker_forget(struct pf_tracker *tracker);

void pf_tracker_note(struct pf_tracker *tracker, const struct pf_run *runs, size_t run_count,
		     const void *pages, const uint8_t *states);

int64_t pf_read_pages(int pid, const struct pf_run *runs, size_t run_count, void *buffer,
		      size_t buffer_bytes, uint8_t *states, struct pf_error *err);

int pf_same_memory(int one, int other, struct pf_error *err);
