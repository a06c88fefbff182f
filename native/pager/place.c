// SPDX-License-Identifier: Apache-2.0
/* Owns userfaultfd's ioctls and the meaning of their errors (ioctl_userfaultfd(2), mm/userfaultfd.c). */
#include "pager.h"

#include <errno.h>
#include <sys/ioctl.h>

static enum outcome no_copy(const struct space *space, uint64_t address, struct pf_error *err)
{
	switch (errno) {
	case EAGAIN:
	case ENOMEM: /* the pod is at its memory limit: its own reclaim may still make room */
		return BLOCKED;
	case ESRCH:
	case ENOSPC: /* ESRCH before Linux 4.13 */
		return GONE;
	default:
		pf_fail_errno(err, "cannot place the page at %#llx of process %d (space %u)",
			      (unsigned long long)address, space->pid, space->id);
		return BROKEN;
	}
}

void wake_range(int uffd, uint64_t start, uint64_t bytes)
{
	struct uffdio_range range = {.start = start, .len = bytes};

	ioctl(uffd, UFFDIO_WAKE, &range);
}

enum outcome place(struct pager *pager, struct space *space, struct piece piece,
		   struct pf_error *err)
{
	uint64_t step = piece.pages;

	while (piece.pages > 0) {
		struct uffdio_copy copy = {.dst = piece.start, .src = (uint64_t)piece.bytes};
		uint64_t forward = 0;

		if (step > piece.pages)
			step = piece.pages;
		copy.len = step * PAGE_BYTES;
		if (ioctl(space->uffd, UFFDIO_COPY, &copy) == 0) {
			forward = step;
			step = piece.pages;
			pager->figures.placed += forward;
		} else if (errno == EAGAIN && copy.copy > 0) {
			forward = (uint64_t)copy.copy / PAGE_BYTES;
			pager->figures.placed += forward;
		} else if (errno == EEXIST) {
			forward = 1;
			wake_range(space->uffd, piece.start, PAGE_BYTES);
		} else if (errno == ENOENT && step > 1) {
			/* A copy may not cross from one mapping into the next. */
			step /= 2;
			continue;
		} else if (errno == ENOENT && pager->restored) {
			forward = 1; /* unmapped, and the event is on its way */
		} else if (errno == ENOENT) {
			return BLOCKED; /* CRIU has not registered it yet */
		} else {
			return no_copy(space, piece.start, err);
		}
		runs_settle(&space->runs, piece.start, piece.start + forward * PAGE_BYTES);
		piece.start += forward * PAGE_BYTES;
		piece.bytes += forward * PAGE_BYTES;
		piece.pages -= forward;
	}
	return PLACED;
}

enum outcome place_zero(struct pager *pager, struct space *space, uint64_t address,
			struct pf_error *err)
{
	struct uffdio_zeropage zero = {.range = {.start = address, .len = PAGE_BYTES}};
	struct piece next;
	uint64_t end = address + PAGER_ZERO_AROUND * PAGE_BYTES;

	if (ioctl(space->uffd, UFFDIO_ZEROPAGE, &zero) < 0) {
		if (errno != EEXIST && errno != ENOENT)
			return no_copy(space, address, err);
		wake_range(space->uffd, address, PAGE_BYTES);
		return PLACED;
	}
	pager->figures.zeroed++;
	/* New memory is touched page after page. What is there stops this, and so does the end of
	 * the mapping; both are harmless. */
	if (runs_missing(&space->runs, address, end, 1, &next))
		end = next.start;
	zero.range.start = address + PAGE_BYTES;
	zero.range.len = end - zero.range.start;
	if (zero.range.len > 0)
		ioctl(space->uffd, UFFDIO_ZEROPAGE, &zero);
	return PLACED;
}

void wake_all(int uffd)
{
	/* The kernel wants a range that ends with the address space, whose size is not said. */
	static const unsigned bits[] = {57, 56, 52, 48, 47, 39};
	const uint64_t start = 1 << 20;

	for (size_t at = 0; at < sizeof(bits) / sizeof(*bits); at++) {
		uint64_t end = ((uint64_t)1 << bits[at]) - PAGE_BYTES;
		struct uffdio_range range = {.start = start, .len = end - start};

		if (ioctl(uffd, UFFDIO_WAKE, &range) == 0 || errno != EINVAL)
			return;
	}
}
