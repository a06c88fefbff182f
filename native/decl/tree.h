/* SPDX-License-Identifier: Apache-2.0 */
static const int PF_TREE_BLOCK_BYTES;
static const int PF_TREE_OVERLAY;
static const int PF_TREE_ALL_FILES;

struct pf_tree_scan {
	uint8_t *records;
	size_t bytes;
	uint64_t entries;
	uint64_t file_system;
	uint64_t vanished;
};

struct pf_tree_pair {
	int64_t old_at;
	int64_t new_at;
};

struct pf_tree_pairs {
	struct pf_tree_pair *pairs;
	size_t count;
};

int pf_tree_scan(int root_fd, uint32_t flags, const char *exclude, size_t exclude_bytes,
		 uint64_t entries_max, const uint8_t *old, size_t old_bytes,
		 int64_t settled_before_ns, struct pf_tree_scan *out, struct pf_error *err);
void pf_tree_scan_free(struct pf_tree_scan *scan);
int pf_tree_compare(const uint8_t *old, size_t old_bytes, const uint8_t *new, size_t new_bytes,
		    uint32_t flags, const uint64_t *inodes, size_t inode_count,
		    struct pf_tree_pairs *out, struct pf_error *err);
void pf_tree_pairs_free(struct pf_tree_pairs *pairs);
int pf_tree_summary(const uint8_t *records, size_t bytes, uint64_t out[2], struct pf_error *err);
int pf_tree_read_blocks(int fd, uint64_t offset, uint8_t *buffer, uint32_t bytes, uint64_t seed,
			uint64_t *hashes, struct pf_error *err);
int pf_tree_punch(int fd, uint64_t offset, uint64_t bytes, struct pf_error *err);
