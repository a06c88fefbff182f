// SPDX-License-Identifier: Apache-2.0
/* Owns the reading of another process's pages: in batches, past pages that are gone, zeros found. */
#include "podferry/track.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cleanup.h"
#include "error.h"

/* Beyond this a larger batch is no quicker, measured. */
#define BATCH_RUNS  512
#define BATCH_BYTES (2U << 20)

struct reader {
	pid_t pid;
	int mem; /* /proc/PID/mem, -1 until it is needed */
	uint8_t *buffer;
	uint8_t *states;
	size_t page; /* the next one in BUFFER and STATES */
	const struct pf_run *runs;
	size_t run_count;
	size_t run;     /* the next page is in this one */
	uint32_t inner; /* and has this number in it */
	struct pf_error *err;
};

static bool is_zero(const uint8_t *page)
{
	const uint64_t *words = (const uint64_t *)(const void *)page;

	for (size_t i = 0; i < PF_PAGE_BYTES / sizeof(*words); i += 8) {
		uint64_t any = 0;

		for (size_t j = 0; j < 8; j++)
			any |= words[i + j];
		if (any)
			return false;
	}
	return true;
}

static void advance(struct reader *reader, uint32_t pages)
{
	reader->inner += pages;
	reader->page += pages;
	while (reader->run < reader->run_count &&
	       reader->inner >= reader->runs[reader->run].pages) {
		reader->inner -= reader->runs[reader->run].pages;
		reader->run++;
	}
}

static void take(struct reader *reader, size_t pages)
{
	for (size_t i = 0; i < pages; i++) {
		size_t page = reader->page + i;

		reader->states[page] = is_zero(reader->buffer + page * PF_PAGE_BYTES)
					       ? PF_PAGE_ZERO
					       : PF_PAGE_READ;
	}
	advance(reader, (uint32_t)pages);
}

static void *next_place(const struct reader *reader)
{
	return reader->buffer + reader->page * PF_PAGE_BYTES;
}

static uint64_t next_address(const struct reader *reader)
{
	return reader->runs[reader->run].vaddr + (uint64_t)reader->inner * PF_PAGE_BYTES;
}

/* One call for the next runs, up to the bounds of a batch; gives whole pages. */
static ssize_t read_batch(struct reader *reader)
{
	struct iovec remote[BATCH_RUNS];
	struct iovec local = {.iov_base = next_place(reader), .iov_len = 0};
	uint32_t inner = reader->inner;
	unsigned long count = 0;
	ssize_t got;

	for (size_t run = reader->run; run < reader->run_count && count < BATCH_RUNS; run++) {
		uint64_t bytes = (uint64_t)(reader->runs[run].pages - inner) * PF_PAGE_BYTES;
		uint64_t at = reader->runs[run].vaddr + (uint64_t)inner * PF_PAGE_BYTES;

		if (bytes > BATCH_BYTES - local.iov_len)
			bytes = BATCH_BYTES - local.iov_len;
		if (bytes == 0)
			break;
		remote[count++] = (struct iovec){(void *)(uintptr_t)at, bytes};
		local.iov_len += bytes;
		inner = 0;
	}
	got = process_vm_readv(reader->pid, &local, 1, remote, count, 0);
	return got < 0 ? -errno : got / PF_PAGE_BYTES * PF_PAGE_BYTES;
}

/* What process_vm_readv does not read: pages without access rights, which this way are read
 * nevertheless, and such that are gone. */
static int read_the_hard_way(struct reader *reader)
{
	const struct pf_run *run = &reader->runs[reader->run];
	size_t bytes = (size_t)(run->pages - reader->inner) * PF_PAGE_BYTES;
	ssize_t got;

	if (reader->mem < 0) {
		char path[32];

		snprintf(path, sizeof(path), "/proc/%d/mem", reader->pid);
		reader->mem = open(path, O_RDONLY | O_CLOEXEC);
		if (reader->mem < 0)
			return errno == ENOENT ? pf_fail(reader->err, -ESRCH,
							 "process %d has ended", reader->pid)
					       : pf_fail_errno(reader->err, "%s", path);
	}
	if (bytes > BATCH_BYTES)
		bytes = BATCH_BYTES;
	got = pread(reader->mem, next_place(reader), bytes, (off_t)next_address(reader));
	if (got >= PF_PAGE_BYTES) {
		take(reader, (size_t)got / PF_PAGE_BYTES);
		return 0;
	}
	memset(next_place(reader), 0, PF_PAGE_BYTES);
	reader->states[reader->page] = PF_PAGE_GONE;
	advance(reader, 1);
	return 1;
}

int64_t pf_read_pages(pid_t pid, const struct pf_run *runs, size_t run_count, void *buffer,
		      size_t buffer_bytes, uint8_t *states, struct pf_error *err)
{
	PF_AUTO_FD int mem = -1;
	struct reader reader = {.pid = pid,
				.mem = -1,
				.buffer = buffer,
				.states = states,
				.runs = runs,
				.run_count = run_count,
				.err = err};
	uint64_t pages = 0;
	int64_t gone = 0;

	for (size_t i = 0; i < run_count; i++)
		pages += runs[i].pages;
	if (pages > buffer_bytes / PF_PAGE_BYTES)
		return pf_fail(err, -ENOBUFS, "%llu pages do not fit into %zu bytes",
			       (unsigned long long)pages, buffer_bytes);
	advance(&reader, 0);
	while (reader.run < run_count) {
		ssize_t got = read_batch(&reader);
		int code;

		if (got > 0) {
			take(&reader, (size_t)got / PF_PAGE_BYTES);
			continue;
		}
		if (got == -ESRCH)
			return pf_fail(err, -ESRCH, "process %d has ended", pid);
		if (got < 0 && got != -EFAULT)
			return pf_fail(err, (int)got, "reading process %d: %s", pid,
				       strerror((int)-got));
		code = read_the_hard_way(&reader);
		mem = reader.mem; /* closed at the end */
		if (code < 0)
			return code;
		gone += code;
	}
	return ((int64_t)pages - gone) * PF_PAGE_BYTES;
}
