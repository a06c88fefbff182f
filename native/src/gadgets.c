// SPDX-License-Identifier: Apache-2.0
/* Owns the search for pieces of code in the target's executable mappings. */
#include "gadgets.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "cleanup.h"
#include "error.h"
#include "maps.h"

#define CHUNK_BYTES   (256 * 1024)
#define LONGEST_BYTES 3
/* A program that keeps them further back than this has no more to say about it. */
#define SEARCH_BYTES_MAX (256ULL << 20)

static const uint8_t syscall_ret[] = {0x0f, 0x05, 0xc3};
static const uint8_t pop_rax_ret[] = {0x58, 0xc3};

static int complete(const struct pf_gadgets *found)
{
	return found->syscall_ret && found->pop_rax_ret && found->store_ret;
}

static void look_at(struct pf_gadgets *found, const uint8_t *code, uint64_t vaddr)
{
	if (!found->syscall_ret && memcmp(code, syscall_ret, sizeof(syscall_ret)) == 0)
		found->syscall_ret = vaddr;
	if (!found->pop_rax_ret && memcmp(code, pop_rax_ret, sizeof(pop_rax_ret)) == 0)
		found->pop_rax_ret = vaddr;
	if (!found->store_ret && code[0] == 0x89 && code[2] == 0xc3 &&
	    (code[1] == PF_GADGET_RDX || code[1] == PF_GADGET_RBX || code[1] == PF_GADGET_RSI)) {
		found->store_ret = vaddr;
		found->store_register = code[1];
	}
}

static void search(pid_t pid, const struct pf_vma *vma, uint8_t *chunk, struct pf_gadgets *found)
{
	for (uint64_t at = vma->start; at < vma->end && !complete(found);) {
		uint64_t left = vma->end - at;
		struct iovec local = {chunk, left < CHUNK_BYTES ? left : CHUNK_BYTES};
		struct iovec remote = {(void *)(uintptr_t)at, local.iov_len};
		ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);

		if (got < LONGEST_BYTES)
			return;
		for (ssize_t i = 0; i + LONGEST_BYTES <= got && !complete(found); i++)
			look_at(found, chunk + i, at + (uint64_t)i);
		/* What straddles two chunks is seen in the second. */
		at += (uint64_t)got - (LONGEST_BYTES - 1);
		if (vma->end - at < LONGEST_BYTES)
			return;
	}
}

int pf_gadgets_find(pid_t pid, struct pf_gadgets *out, struct pf_error *err)
{
	PF_AUTO_VMAS struct pf_vmas vmas = {0};
	PF_AUTO_FD int fd = -1;
	PF_AUTO_FREE uint8_t *chunk = malloc(CHUNK_BYTES);
	uint64_t searched = 0;
	int code = chunk ? pf_proc_open(pid, "maps", &fd, err)
			 : pf_fail(err, -ENOMEM, "no memory to look at code");

	if (code == 0)
		code = pf_vmas_read(&vmas, fd, err);
	if (code < 0)
		return code;
	*out = (struct pf_gadgets){0};
	for (size_t i = 0; i < vmas.count && searched < SEARCH_BYTES_MAX; i++) {
		const struct pf_vma *vma = &vmas.list[i];

		/* Code that the program writes itself may be gone a moment later. */
		if (vma->kind != PF_MAPPING_FILE || !vma->executable || vma->writable)
			continue;
		search(pid, vma, chunk, out);
		searched += vma->end - vma->start;
		if (complete(out))
			return 0;
	}
	return pf_fail(err, -ENOTSUP,
		       "process %d: its code has no way back from an injected system call", pid);
}
