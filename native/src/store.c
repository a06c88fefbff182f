// SPDX-License-Identifier: Apache-2.0
/* Owns the store's files and its quota. */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"

#define IMAGES "images"

void pf_store_data_name(int pid, char name[PF_STORE_NAME_BYTES])
{
	snprintf(name, PF_STORE_NAME_BYTES, "%d.pages", pid);
}

void pf_store_index_name(int pid, char name[PF_STORE_NAME_BYTES])
{
	snprintf(name, PF_STORE_NAME_BYTES, "%d.index", pid);
}

static int make_directories(struct pf_store *store, const char *directory, struct pf_error *err)
{
	if (mkdir(directory, 0700) < 0)
		return pf_fail_errno(err, "cannot make the store %s", directory);
	store->directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (store->directory < 0)
		return pf_fail_errno(err, "cannot open the store %s", directory);
	if (mkdirat(store->directory, IMAGES, 0700) < 0)
		return pf_fail_errno(err, "cannot make the store's directory of images");
	store->images =
		openat(store->directory, IMAGES, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return store->images < 0 ? pf_fail_errno(err, "cannot open the store's images") : 0;
}

int pf_store_create(struct pf_store **out, const char *directory, uint64_t quota_bytes,
		    struct pf_error *err)
{
	struct pf_store *store = calloc(1, sizeof(*store));
	int code;

	if (!store)
		return pf_fail(err, -ENOMEM, "no memory for a store");
	store->directory = store->images = -1;
	store->quota_bytes = quota_bytes;
	store->references = 1;
	pf_table_init(&store->table);
	pthread_cond_init(&store->quiet, NULL);
	code = getrandom(&store->seed, sizeof(store->seed), 0) == sizeof(store->seed)
		       ? make_directories(store, directory, err)
		       : pf_fail_errno(err, "cannot choose a seed");
	if (code < 0) {
		pf_store_release(store);
		return code;
	}
	*out = store;
	return 0;
}

struct pf_store *pf_store_hold(struct pf_store *store)
{
	store->references++;
	return store;
}

void pf_store_release(struct pf_store *store)
{
	if (!store || --store->references > 0)
		return;
	pf_table_free(&store->table);
	pthread_cond_destroy(&store->quiet);
	if (store->directory >= 0)
		close(store->directory);
	if (store->images >= 0)
		close(store->images);
	free(store);
}

int pf_store_read_counts(struct pf_store *store, struct pf_store_counts *out, struct pf_error *err)
{
	(void)err;
	pthread_mutex_lock(&store->table.lock);
	*out = store->table.counts;
	pthread_mutex_unlock(&store->table.lock);
	return 0;
}

/* ---- writers */

/* With the lock: what is held, what is kept about it, and MORE, fit into the quota. */
static int check_room(const struct pf_store *store, uint64_t more, struct pf_error *err)
{
	const struct pf_table *table = &store->table;
	uint64_t used = table->counts.pages * PF_PAGE_BYTES +
			table->blocks * sizeof(struct pf_block) + table->counts.file_bytes +
			store->parts * PF_PAGE_BYTES + store->under_way;

	if (more > store->quota_bytes || used > store->quota_bytes - more)
		return pf_fail(err, -EDQUOT, "more than the %llu bytes that were agreed",
			       (unsigned long long)store->quota_bytes);
	return 0;
}

/* Takes the lock; keeps it only if it fails not. Of MORE, BYTES are about to be written. */
static int begin(struct pf_store *store, uint64_t more, uint64_t bytes, struct pf_error *err)
{
	int code;

	pthread_mutex_lock(&store->table.lock);
	code = store->sealed ? pf_fail(err, -EROFS, "the store is sealed")
			     : check_room(store, more, err);
	if (code < 0) {
		pthread_mutex_unlock(&store->table.lock);
		return code;
	}
	store->agreed = false;
	store->writers++;
	store->under_way += bytes;
	return 0;
}

/* With the lock, which it gives back. */
static int end(struct pf_store *store, uint64_t bytes, int code)
{
	store->under_way -= bytes;
	if (--store->writers == 0)
		pthread_cond_broadcast(&store->quiet);
	pthread_mutex_unlock(&store->table.lock);
	return code;
}

static int write_whole(int fd, const void *data, size_t bytes, uint64_t offset,
		       struct pf_error *err)
{
	const char *at = data;

	while (bytes > 0) {
		ssize_t written = pwrite(fd, at, bytes, (off_t)offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return pf_fail_errno(err, "cannot write to the store");
		at += written;
		offset += (uint64_t)written;
		bytes -= (size_t)written;
	}
	return 0;
}

/* With the lock. */
static int find_place(struct pf_store *store, int pid, uint64_t vaddr, struct pf_block **block,
		      int *fd, uint64_t *offset, struct pf_error *err)
{
	struct pf_process *process = pf_table_process(&store->table, pid, true);
	struct pf_region *region;
	char name[PF_STORE_NAME_BYTES];

	if (!process)
		return pf_fail(err, -EDQUOT, "more than %u processes", PF_PROCESSES_MAX);
	if (process->fd < 0) {
		pf_store_data_name(pid, name);
		process->fd = openat(store->directory, name,
				     O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (process->fd < 0)
			return pf_fail_errno(err, "cannot make the store's file %s", name);
	}
	*block = pf_process_block(&store->table, process, vaddr, true, &region);
	if (!*block)
		return pf_fail(err, -ENOMEM, "no memory for the store's table");
	*fd = process->fd;
	*offset = region->number * PF_REGION_BYTES + vaddr % PF_REGION_BYTES;
	return 0;
}

static int write_pages(int fd, uint64_t offset, uint64_t data, const unsigned char *payload,
		       struct pf_error *err)
{
	while (data) {
		unsigned first = (unsigned)__builtin_ctzll(data);
		uint64_t rest = data >> first;
		unsigned count = ~rest ? (unsigned)__builtin_ctzll(~rest) : PF_BLOCK_PAGES;
		size_t bytes = (size_t)count * PF_PAGE_BYTES;
		int code = write_whole(fd, payload, bytes, offset + (uint64_t)first * PF_PAGE_BYTES,
				       err);

		if (code < 0)
			return code;
		payload += bytes;
		data = count == PF_BLOCK_PAGES ? 0
					       : data & ~((((uint64_t)1 << count) - 1) << first);
	}
	return 0;
}

int pf_store_put_pages(struct pf_store *store, int pid, uint64_t vaddr, uint64_t data,
		       uint64_t zero, uint32_t round, const unsigned char *payload,
		       const uint64_t *hashes, struct pf_error *err)
{
	uint64_t more =
		(uint64_t)__builtin_popcountll(data) * PF_PAGE_BYTES + sizeof(struct pf_block);
	struct pf_block *block = NULL;
	uint64_t offset = 0;
	int fd = -1, code = begin(store, more, more, err);

	if (code < 0)
		return code;
	code = find_place(store, pid, vaddr, &block, &fd, &offset, err);
	pthread_mutex_unlock(&store->table.lock);
	if (code == 0)
		code = write_pages(fd, offset, data, payload, err);
	pthread_mutex_lock(&store->table.lock);
	if (code == 0) {
		if (store->table.counts.pages + store->table.counts.zero_pages == 0)
			store->first_round = round;
		store->round = round;
		pf_block_note(&store->table, pid, block, vaddr, data, zero, hashes, round);
	}
	return end(store, more, code);
}

int pf_store_put_part(struct pf_store *store, const char *name, uint64_t size, uint64_t offset,
		      const void *data, size_t bytes, uint64_t sum, struct pf_error *err)
{
	PF_AUTO_FD int fd = -1;
	int code = begin(store, size == UINT64_MAX ? offset + bytes : size, bytes, err);

	if (code < 0)
		return code;
	pthread_mutex_unlock(&store->table.lock);
	fd = openat(store->images, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
		    0600);
	if (fd < 0)
		code = pf_fail_errno(err, "cannot make the image's file %s", name);
	else if (size != UINT64_MAX && ftruncate(fd, (off_t)size) < 0)
		code = pf_fail_errno(err, "cannot size the image's file %s", name);
	if (code == 0)
		code = write_whole(fd, data, bytes, offset, err);
	pthread_mutex_lock(&store->table.lock);
	store->parts++;
	if (code == 0)
		pf_table_note_part(&store->table, name, offset, bytes, sum);
	return end(store, bytes, code);
}

int pf_store_drop(struct pf_store *store, int pid, struct pf_error *err)
{
	char name[PF_STORE_NAME_BYTES];

	pthread_mutex_lock(&store->table.lock);
	/* Who is writing has found a place in what is to go. */
	while (store->writers > 0)
		pthread_cond_wait(&store->quiet, &store->table.lock);
	if (store->sealed) {
		pthread_mutex_unlock(&store->table.lock);
		return pf_fail(err, -EROFS, "the store is sealed");
	}
	store->agreed = false;
	pf_table_drop(&store->table, pid);
	pf_store_data_name(pid, name);
	unlinkat(store->directory, name, 0);
	pthread_mutex_unlock(&store->table.lock);
	return 0;
}

bool pf_store_agrees(struct pf_store *store, const struct pf_store_counts *theirs,
		     struct pf_store_counts *got)
{
	bool agrees;

	pthread_mutex_lock(&store->table.lock);
	*got = store->table.counts;
	agrees = memcmp(got, theirs, sizeof(*got)) == 0;
	store->agreed = agrees;
	pthread_mutex_unlock(&store->table.lock);
	return agrees;
}
