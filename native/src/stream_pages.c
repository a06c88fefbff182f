// SPDX-License-Identifier: Apache-2.0
/* Owns the reading of another process's memory. */
#include "stream_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

#include "store_table.h"

#define PIECES_MAX 512

/* Describes pages from AT on by as few pieces as possible; gives how many pages those are. */
static size_t gather(const struct pf_page *pages, size_t at, size_t count, struct iovec *here,
		     struct iovec *there, size_t *pieces)
{
	*pieces = 0;
	for (; at < count; at++) {
		const struct pf_page *page = &pages[at];
		size_t last = *pieces - 1;

		if (*pieces &&
		    (char *)there[last].iov_base + there[last].iov_len ==
			    (char *)(uintptr_t)page->vaddr &&
		    (unsigned char *)here[last].iov_base + here[last].iov_len == page->at) {
			here[last].iov_len += PF_PAGE_BYTES;
			there[last].iov_len += PF_PAGE_BYTES;
			continue;
		}
		if (*pieces == PIECES_MAX)
			break;
		here[*pieces] = (struct iovec){page->at, PF_PAGE_BYTES};
		there[(*pieces)++] = (struct iovec){(void *)(uintptr_t)page->vaddr, PF_PAGE_BYTES};
	}
	return at;
}

/* Memory without the right to read (PROT_NONE) has content all the same, which a debugger's way
 * shows. */
static int read_alone(struct pf_reader *reader, struct pf_page *page, struct pf_error *err)
{
	char path[32];
	ssize_t got;

	if (reader->memory_fd < 0) {
		snprintf(path, sizeof(path), "/proc/%d/mem", reader->pid);
		reader->memory_fd = open(path, O_RDONLY | O_CLOEXEC);
		if (reader->memory_fd < 0)
			return pf_fail_errno(err, "cannot read the memory of process %d",
					     reader->pid);
	}
	got = pread(reader->memory_fd, page->at, PF_PAGE_BYTES, (off_t)page->vaddr);
	if (got == 0)
		return pf_fail(err, -ESRCH, "process %d has ended", reader->pid);
	if (got < 0 && errno != EIO && errno != EFAULT)
		return pf_fail_errno(err, "cannot read the memory of process %d", reader->pid);
	page->gone = got != PF_PAGE_BYTES;
	return 0;
}

int pf_reader_read(struct pf_reader *reader, struct pf_page *pages, size_t count,
		   struct pf_error *err)
{
	struct iovec here[PIECES_MAX], there[PIECES_MAX];
	size_t at = 0;

	while (at < count) {
		size_t pieces, end = gather(pages, at, count, here, there, &pieces);
		ssize_t got = process_vm_readv(reader->pid, here, pieces, there, pieces, 0);
		int code;

		if (got < 0 && errno != EFAULT)
			return pf_fail_errno(err, "cannot read the memory of process %d",
					     reader->pid);
		at += got < 0 ? 0 : (size_t)got / PF_PAGE_BYTES;
		if (at >= end)
			continue;
		code = read_alone(reader, &pages[at++], err);
		if (code < 0)
			return code;
	}
	return 0;
}

void pf_reader_close(struct pf_reader *reader)
{
	if (reader->memory_fd >= 0)
		close(reader->memory_fd);
	reader->memory_fd = -1;
}

bool pf_page_is_zero(const unsigned char *page)
{
	const uint64_t *words = (const uint64_t *)(const void *)page;

	for (unsigned at = 0; at < PF_PAGE_BYTES / 8; at += 8) {
		uint64_t any = 0;

		for (unsigned word = 0; word < 8; word++)
			any |= words[at + word];
		if (any)
			return false;
	}
	return true;
}
