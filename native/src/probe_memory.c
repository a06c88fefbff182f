// SPDX-License-Identifier: Apache-2.0
/* Owns the proofs about memory: userfaultfd, PAGEMAP_SCAN, soft-dirty, process_vm_readv. */
#include "podferry/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cleanup.h"
#include "error.h"

int pf_probe_userfaultfd(uint64_t *features, struct pf_error *err)
{
	struct uffdio_api api = {.api = UFFD_API};
	PF_AUTO_FD int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return pf_fail_errno(err, "userfaultfd");
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return pf_fail_errno(err, "UFFDIO_API");
	*features = api.features;
	return 0;
}
