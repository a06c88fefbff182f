/* SPDX-License-Identifier: Apache-2.0 */
struct pf_store;

struct pf_store_counts {
	uint64_t processes;
	uint64_t pages;
	uint64_t zero_pages;
	uint64_t file_bytes;
	uint64_t files;
	uint64_t digest;
};

struct pf_store_sealed {
	uint64_t processes;
	uint64_t pages;
	uint64_t zero_pages;
	uint64_t unused_pages;
	uint64_t recent_pages;
};

int pf_store_create(struct pf_store **out, const char *directory, uint64_t quota_bytes,
		    struct pf_error *err);

void pf_store_release(struct pf_store *store);

int pf_store_read_counts(struct pf_store *store, struct pf_store_counts *out, struct pf_error *err);

int pf_store_seal(struct pf_store *store, const char *image_dir, struct pf_store_sealed *out,
		  struct pf_error *err);
