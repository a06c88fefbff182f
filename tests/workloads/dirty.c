// SPDX-License-Identifier: Apache-2.0
/* dirty MIB: writes every page of so much memory as fast as it can, generation by generation.
 *
 * A page that does not hold what the last generation wrote is told in /program/wrong; the number of
 * the last whole generation stands in /program/seen. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL

static void tell(const char *path, uint64_t number)
{
	char text[32];
	int length = snprintf(text, sizeof(text), "%20llu\n", (unsigned long long)number);
	int fd = open(path, O_CREAT | O_WRONLY, 0644);

	if (fd < 0 || pwrite(fd, text, (size_t)length, 0) != length)
		exit(1);
	close(fd);
}

int main(int argc, char **argv)
{
	size_t bytes = argc > 1 ? strtoul(argv[1], NULL, 10) << 20 : 0;
	char *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (!bytes || start == MAP_FAILED)
		return 1;
	for (uint64_t generation = 1;; generation++) {
		for (size_t offset = 0; offset < bytes; offset += PAGE) {
			volatile uint64_t *page = (volatile uint64_t *)(start + offset);

			if (*page != generation - 1) {
				tell("/program/wrong", offset / PAGE);
				return 1;
			}
			*page = generation;
		}
		tell("/program/seen", generation);
	}
}
