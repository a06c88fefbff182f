// SPDX-License-Identifier: Apache-2.0
/* Owns the journal's file; knows nothing of what the records mean. */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"

#define JOURNAL_BYTES                                                                              \
	(sizeof(struct journal_head) + JOURNAL_RECORDS * sizeof(struct journal_record))

static int map(struct journal *journal, int fd, struct pf_error *err)
{
	int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
	void *start = mmap(NULL, JOURNAL_BYTES, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (start == MAP_FAILED)
		return pf_fail_errno(err, "cannot map the journal");
	journal->head = start;
	journal->records = (struct journal_record *)(journal->head + 1);
	return 0;
}

static int check(const struct journal_head *head, const char *path, struct pf_error *err)
{
	if (memcmp(head->magic, JOURNAL_MAGIC, sizeof(head->magic)) != 0 ||
	    head->record_bytes != sizeof(struct journal_record) ||
	    head->capacity != JOURNAL_RECORDS || head->count > JOURNAL_RECORDS)
		return pf_fail(err, -EINVAL, "%s is no journal of this pager", path);
	if (head->overflowed)
		return pf_fail(err, -EOVERFLOW, "the journal %s was too small to go on from", path);
	return 0;
}

int journal_open(struct journal *journal, const char *path, bool resume, struct pf_error *err)
{
	PF_AUTO_FD int fd = -1;
	struct stat status;
	int code;

	if (path) {
		fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (resume ? 0 : O_CREAT | O_EXCL),
			  0600);
		if (fd < 0)
			return pf_fail_errno(err, "cannot open the journal %s", path);
		if (!resume && ftruncate(fd, (off_t)JOURNAL_BYTES) < 0)
			return pf_fail_errno(err, "cannot size the journal %s", path);
		if (fstat(fd, &status) < 0 || status.st_size != (off_t)JOURNAL_BYTES)
			return pf_fail(err, -EINVAL, "the journal %s has the wrong size", path);
	}
	code = map(journal, fd, err);
	if (code < 0 || resume)
		return code < 0 ? code : check(journal->head, path, err);
	*journal->head = (struct journal_head){.record_bytes = sizeof(struct journal_record),
					       .capacity = JOURNAL_RECORDS};
	memcpy(journal->head->magic, JOURNAL_MAGIC, sizeof(journal->head->magic));
	return 0;
}

void journal_close(struct journal *journal)
{
	if (journal->head)
		munmap(journal->head, JOURNAL_BYTES);
	*journal = (struct journal){0};
}

struct journal_record *journal_next(struct journal *journal, enum journal_kind kind, uint32_t space)
{
	uint64_t at = journal->head->count;
	struct journal_record *record;

	/* A full journal costs the second pager, not this one. */
	if (at == JOURNAL_RECORDS - 1)
		journal->head->overflowed = 1;
	record = &journal->records[at];
	memset(record, 0, sizeof(*record));
	record->kind = kind;
	record->space = space;
	/* What the kernel writes next must not become visible before this. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return record;
}

void journal_commit(struct journal *journal)
{
	if (!journal->head->overflowed)
		__atomic_store_n(&journal->head->count, journal->head->count + 1, __ATOMIC_SEQ_CST);
}
