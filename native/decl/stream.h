/* SPDX-License-Identifier: Apache-2.0 */
static const int PF_STREAM_TOKEN_BYTES;
static const int PF_STREAM_LANES_MAX;

struct pf_stream_tls {
	const char *certificate;
	const char *key;
	const char *authority;
};

struct pf_sender;

struct pf_sender_options {
	const char *address;
	uint16_t port;
	const char *peer_name;
	struct pf_stream_tls tls;
	uint8_t token[32];
	uint32_t lanes;
	uint32_t timeout_ms;
};

struct pf_sender_progress {
	uint64_t pages_read;
	uint64_t pages_sent;
	uint64_t pages_zero;
	uint64_t pages_unchanged;
	uint64_t pages_gone;
	uint64_t payload_bytes;
	uint64_t file_bytes;
	uint64_t writing_ns;
	uint64_t compressed_pages;
};

int pf_sender_open(struct pf_sender **out, const struct pf_sender_options *options,
		   struct pf_error *err);

int pf_sender_connect(struct pf_sender *sender, const char *address, uint16_t port,
		      struct pf_error *err);

int pf_sender_send_runs(struct pf_sender *sender, int host_pid, int image_pid,
			const struct pf_run *runs, size_t count, struct pf_error *err);

int pf_sender_send_part(struct pf_sender *sender, const char *name, uint64_t size, uint64_t offset,
			const void *data, size_t bytes, struct pf_error *err);

int pf_sender_send_directory(struct pf_sender *sender, const char *path, uint64_t *file_bytes,
			     struct pf_error *err);

int pf_sender_forget_process(struct pf_sender *sender, int image_pid, struct pf_error *err);

int pf_sender_flush(struct pf_sender *sender, struct pf_store_counts *out, struct pf_error *err);

void pf_sender_read_progress(struct pf_sender *sender, struct pf_sender_progress *out);

void pf_sender_cancel(struct pf_sender *sender);

void pf_sender_close(struct pf_sender *sender);

struct pf_receiver;

int pf_receiver_start(struct pf_receiver **out, const char *address, uint16_t *port,
		      const struct pf_stream_tls *tls, uint32_t timeout_ms, struct pf_error *err);

int pf_receiver_expect(struct pf_receiver *receiver, const uint8_t token[32], const char *peer_name,
		       struct pf_store *store, struct pf_error *err);

void pf_receiver_forget(struct pf_receiver *receiver, const uint8_t token[32]);

void pf_receiver_read_trouble(struct pf_receiver *receiver, char *out, size_t bytes);

void pf_receiver_close(struct pf_receiver *receiver);

int pf_page_server_run(struct pf_sender *sender, int socket, uint64_t *image_bytes,
		       struct pf_error *err);
