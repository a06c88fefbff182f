// SPDX-License-Identifier: Apache-2.0
/* The arithmetic of runs against plain tables of pages, and reading pages that are not all there. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "podferry/track.h"
#include "runs.h"
#include "scan.h"

#define TABLE_PAGES 200
#define TRIALS      2000

static void fill(struct pf_runs *runs, bool *table)
{
	runs->count = 0;
	memset(table, 0, TABLE_PAGES);
	for (uint64_t page = 0; page < TABLE_PAGES; page++) {
		table[page] = rand() % 3 == 0;
		if (table[page])
			CHECK(pf_runs_add(runs, page * PF_PAGE_BYTES, (page + 1) * PF_PAGE_BYTES,
					  0));
	}
}

static void check(const struct pf_runs *runs, const bool *table, const bool *flagged)
{
	bool found[TABLE_PAGES] = {false}, flags[TABLE_PAGES] = {false};
	uint64_t behind = 0;

	for (size_t i = 0; i < runs->count; i++) {
		CHECK(runs->list[i].vaddr >= behind && runs->list[i].pages > 0);
		behind = pf_run_end(&runs->list[i]);
		CHECK(behind <= TABLE_PAGES * PF_PAGE_BYTES);
		for (uint64_t at = runs->list[i].vaddr; at < behind; at += PF_PAGE_BYTES) {
			found[at / PF_PAGE_BYTES] = true;
			flags[at / PF_PAGE_BYTES] = runs->list[i].flags != 0;
		}
	}
	CHECK_EQUAL(memcmp(found, table, sizeof(found)), 0);
	CHECK_EQUAL(memcmp(flags, flagged, sizeof(flags)), 0);
}

static void sets_are_cut_and_united(void)
{
	PF_AUTO_RUNS struct pf_runs a = {0};
	PF_AUTO_RUNS struct pf_runs b = {0};
	PF_AUTO_RUNS struct pf_runs out = {0};
	bool in_a[TABLE_PAGES], in_b[TABLE_PAGES], wanted[TABLE_PAGES], flagged[TABLE_PAGES];
	const bool none[TABLE_PAGES] = {false};

	for (int trial = 0; trial < TRIALS; trial++) {
		fill(&a, in_a);
		fill(&b, in_b);
		for (int keep = 0; keep < 2; keep++) {
			out.count = 0;
			CHECK(pf_runs_cut(&out, &a, &b, keep));
			for (int i = 0; i < TABLE_PAGES; i++)
				wanted[i] = in_a[i] && in_b[i] == (bool)keep;
			check(&out, wanted, none);
			CHECK(pf_runs_pages(&out) <= pf_runs_pages(&a));
		}
		out.count = 0;
		CHECK(pf_runs_unite(&out, &a, &b, PF_RUN_SUSPECT));
		for (int i = 0; i < TABLE_PAGES; i++) {
			wanted[i] = in_a[i] || in_b[i];
			flagged[i] = in_b[i] && !in_a[i];
		}
		check(&out, wanted, flagged);
	}
}

static void a_run_that_is_too_long_becomes_several(void)
{
	PF_AUTO_RUNS struct pf_runs runs = {0};
	const uint64_t pages = 3ULL << 32;

	CHECK(pf_runs_add(&runs, 0, pages * PF_PAGE_BYTES, 0));
	CHECK(runs.count > 3);
	CHECK_EQUAL(pf_runs_pages(&runs), pages);
	CHECK_EQUAL(pf_run_end(&runs.list[runs.count - 1]), pages * PF_PAGE_BYTES);
}

static void pages_that_are_gone_are_passed(void)
{
	const size_t pages = 1400; /* more than a batch has runs */
	char *memory = mmap(NULL, pages * PF_PAGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *buffer = malloc(pages * PF_PAGE_BYTES);
	uint8_t *states = malloc(pages);
	struct pf_run *runs = calloc(pages, sizeof(*runs));
	struct pf_error err = {0};
	size_t gone = 0;

	CHECK(memory != MAP_FAILED && buffer && states && runs);
	for (size_t i = 0; i < pages; i++) {
		runs[i] = (struct pf_run){(uintptr_t)memory + i * PF_PAGE_BYTES, 1, 0};
		if (i % 5)
			memset(memory + i * PF_PAGE_BYTES, (int)(i % 250) + 1, PF_PAGE_BYTES);
	}
	for (size_t i = 0; i < pages; i++) {
		if (i % 7 == 3)
			munmap(memory + i * PF_PAGE_BYTES, PF_PAGE_BYTES);
		else if (i % 11 == 5)
			mprotect(memory + i * PF_PAGE_BYTES, PF_PAGE_BYTES, PROT_NONE);
		gone += i % 7 == 3;
	}
	CHECK_EQUAL(
		pf_read_pages(getpid(), runs, pages, buffer, pages * PF_PAGE_BYTES, states, &err),
		(pages - gone) * PF_PAGE_BYTES);
	for (size_t i = 0; i < pages; i++) {
		int wanted = i % 7 == 3 ? PF_PAGE_GONE : i % 5 ? PF_PAGE_READ : PF_PAGE_ZERO;
		char byte = wanted == PF_PAGE_READ ? (char)(i % 250 + 1) : 0;

		CHECK_EQUAL(states[i], wanted);
		CHECK_EQUAL(buffer[i * PF_PAGE_BYTES], byte);
		CHECK_EQUAL(buffer[i * PF_PAGE_BYTES + PF_PAGE_BYTES - 1], byte);
	}
	/* As one run: what is behind a hole is still found. */
	runs[0].pages = (uint32_t)pages;
	CHECK_EQUAL(pf_read_pages(getpid(), runs, 1, buffer, pages * PF_PAGE_BYTES, states, &err),
		    (pages - gone) * PF_PAGE_BYTES);
	CHECK_EQUAL(
		pf_read_pages(getpid(), runs, 1, buffer, (pages - 1) * PF_PAGE_BYTES, states, &err),
		-ENOBUFS);
	CHECK_EQUAL(pf_read_pages(1 << 30, runs, 1, buffer, pages * PF_PAGE_BYTES, states, &err),
		    -ESRCH);
	free(buffer);
	free(states);
	free(runs);
	munmap(memory, pages * PF_PAGE_BYTES);
}

/* Kernels without PAGEMAP_SCAN have the pagemap alone; what is there is the same. */
static void both_ways_to_scan_agree(void)
{
	const size_t pages = 70000; /* more than one buffer of entries, or of regions */
	char *memory = mmap(NULL, pages * PF_PAGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t start = (uintptr_t)memory, end = start + pages * PF_PAGE_BYTES;
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct pf_scanner scanner;
	PF_AUTO_RUNS struct pf_runs classic = {0};
	PF_AUTO_RUNS struct pf_runs wanted = {0};

	CHECK(memory != MAP_FAILED && pagemap >= 0);
	madvise(memory, pages * PF_PAGE_BYTES, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i += (size_t)rand() % 6 + 1) {
		memory[i * PF_PAGE_BYTES] = 1;
		CHECK(pf_runs_add(&wanted, start + i * PF_PAGE_BYTES,
				  start + (i + 1) * PF_PAGE_BYTES, 0));
	}
	CHECK_EQUAL(pf_scanner_init(&scanner, pagemap), 0);
	for (int way = 0; way < 2; way++) {
		scanner.classic = scanner.classic || way == 1;
		classic.count = 0;
		CHECK_EQUAL(pf_scan(&scanner, start, end, PF_SCAN_PRESENT, 0, &classic), 0);
		CHECK_EQUAL(classic.count, wanted.count);
		CHECK_EQUAL(memcmp(classic.list, wanted.list, wanted.count * sizeof(*wanted.list)),
			    0);
	}
	pf_scanner_free(&scanner);
	close(pagemap);
	munmap(memory, pages * PF_PAGE_BYTES);
}

int main(void)
{
	both_ways_to_scan_agree();
	srand(3);
	sets_are_cut_and_united();
	a_run_that_is_too_long_becomes_several();
	pages_that_are_gone_are_passed();
	return 0;
}
