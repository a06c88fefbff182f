// SPDX-License-Identifier: Apache-2.0
/* Owns the table of pages and its sums; no I/O. */
#include "store_table.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

void pf_table_init(struct pf_table *table)
{
	*table = (struct pf_table){0};
	pthread_mutex_init(&table->lock, NULL);
}

static void free_process(struct pf_process *process)
{
	for (size_t at = 0; at < process->count; at++) {
		for (unsigned block = 0; block < PF_REGION_BLOCKS; block++)
			free(process->regions[at]->blocks[block]);
		free(process->regions[at]);
	}
	free(process->regions);
	if (process->fd >= 0)
		close(process->fd);
	free(process);
}

void pf_table_clear(struct pf_table *table)
{
	for (size_t at = 0; at < table->count; at++)
		free_process(table->processes[at]);
	free(table->processes);
	table->processes = NULL;
	table->count = table->room = 0;
	table->blocks = 0;
	table->counts = (struct pf_store_counts){0};
}

void pf_table_free(struct pf_table *table)
{
	pf_table_clear(table);
	pthread_mutex_destroy(&table->lock);
}

/* A list of pointers with room for one more; NULL without memory. */
static void *grown(void *list, size_t count, size_t *room)
{
	size_t wanted = *room ? *room * 2 : 8;
	void *larger = list;

	if (count < *room)
		return list;
	larger = reallocarray(list, wanted, sizeof(void *));
	if (larger)
		*room = wanted;
	return larger;
}

struct pf_process *pf_table_process(struct pf_table *table, int pid, bool make)
{
	struct pf_process *process;
	struct pf_process **list;

	for (size_t at = 0; at < table->count; at++)
		if (table->processes[at]->pid == pid)
			return table->processes[at];
	if (!make || table->count >= PF_PROCESSES_MAX)
		return NULL;
	list = grown(table->processes, table->count, &table->room);
	if (!list)
		return NULL;
	table->processes = list;
	process = calloc(1, sizeof(*process));
	if (!process)
		return NULL;
	process->pid = pid;
	process->fd = -1;
	table->processes[table->count++] = process;
	table->counts.processes = table->count;
	return process;
}

static size_t seek(const struct pf_process *process, uint64_t start)
{
	size_t low = 0, high = process->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (process->regions[middle]->start < start)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct pf_region *region_of(struct pf_process *process, uint64_t start, bool make)
{
	size_t at = seek(process, start);
	struct pf_region **list, *region;

	if (at < process->count && process->regions[at]->start == start)
		return process->regions[at];
	if (!make)
		return NULL;
	list = grown(process->regions, process->count, &process->room);
	if (!list)
		return NULL;
	process->regions = list;
	region = calloc(1, sizeof(*region));
	if (!region)
		return NULL;
	region->start = start;
	region->number = (uint32_t)process->count;
	memmove(&list[at + 1], &list[at], (process->count - at) * sizeof(*list));
	list[at] = region;
	process->count++;
	return region;
}

struct pf_block *pf_process_block(struct pf_table *table, struct pf_process *process,
				  uint64_t vaddr, bool make, struct pf_region **region)
{
	struct pf_region *found =
		region_of(process, vaddr / PF_REGION_BYTES * PF_REGION_BYTES, make);
	struct pf_block **place;

	if (region)
		*region = found;
	if (!found)
		return NULL;
	place = &found->blocks[vaddr % PF_REGION_BYTES / PF_BLOCK_BYTES];
	if (!*place && make) {
		*place = calloc(1, sizeof(**place));
		table->blocks += *place != NULL;
	}
	return *place;
}

/* Damage is found by this, not enemies: who could forge it owns the memory that is sent. */
static uint64_t mixed(uint64_t place, uint64_t content)
{
	uint64_t value = (place * 0x9e3779b97f4a7c15u) ^ content;

	value = (value ^ (value >> 32)) * 0xd6e8feb86659fd93u;
	return value ^ (value >> 29);
}

static uint64_t term(int pid, uint64_t vaddr, uint64_t hash)
{
	return mixed(vaddr + (uint64_t)(uint32_t)pid * 0xff51afd7ed558ccdu, hash);
}

static void strike(struct pf_table *table, int pid, const struct pf_block *block, uint64_t start,
		   unsigned at)
{
	uint64_t bit = (uint64_t)1 << at, vaddr = start + (uint64_t)at * PF_PAGE_BYTES;

	if (block->data & bit) {
		table->counts.pages--;
		table->counts.digest -= term(pid, vaddr, block->hash[at]);
	} else if (block->zero & bit) {
		table->counts.zero_pages--;
		table->counts.digest -= term(pid, vaddr, 0);
	}
}

void pf_block_note(struct pf_table *table, int pid, struct pf_block *block, uint64_t vaddr,
		   uint64_t data, uint64_t zero, const uint64_t *hashes, uint32_t round)
{
	uint64_t start = vaddr / PF_BLOCK_BYTES * PF_BLOCK_BYTES;

	if (block->round != round)
		block->recent = 0;
	block->round = round;
	block->recent |= data;
	block->again |= data & (block->data | block->zero);
	for (uint64_t left = data | zero; left; left &= left - 1) {
		unsigned at = (unsigned)__builtin_ctzll(left);
		uint64_t bit = (uint64_t)1 << at;
		uint64_t hash = 0;

		strike(table, pid, block, start, at);
		if (data & bit) {
			hash = *hashes++;
			block->hash[at] = hash;
			table->counts.pages++;
		} else {
			table->counts.zero_pages++;
		}
		table->counts.digest += term(pid, start + (uint64_t)at * PF_PAGE_BYTES, hash);
	}
	block->data = (block->data & ~zero) | data;
	block->zero = (block->zero & ~data) | zero;
}

void pf_table_drop(struct pf_table *table, int pid)
{
	struct pf_process *process = pf_table_process(table, pid, false);

	if (!process)
		return;
	for (size_t at = 0; at < process->count; at++)
		for (unsigned index = 0; index < PF_REGION_BLOCKS; index++) {
			const struct pf_region *region = process->regions[at];
			const struct pf_block *block = region->blocks[index];

			if (!block)
				continue;
			for (unsigned page = 0; page < PF_BLOCK_PAGES; page++)
				strike(table, pid, block, region->start + index * PF_BLOCK_BYTES,
				       page);
			table->blocks--;
		}
	for (size_t at = 0; at < table->count; at++)
		if (table->processes[at] == process)
			table->processes[at] = table->processes[--table->count];
	table->counts.processes = table->count;
	free_process(process);
}

void pf_table_note_part(struct pf_table *table, const char *name, uint64_t offset, uint64_t bytes,
			uint64_t sum)
{
	table->counts.file_bytes += bytes;
	table->counts.files += offset == 0;
	table->counts.digest += mixed(XXH3_64bits(name, strlen(name)) + offset, sum);
}

static uint64_t hash_of(uint64_t seed, const void *page)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		return pf_page_hash_avx2(seed, page);
#endif
	return XXH3_64bits_withSeed(page, PF_PAGE_BYTES, seed);
}

uint64_t pf_page_hash(uint64_t seed, const void *page)
{
	uint64_t hash = hash_of(seed, page);

	return hash ? hash : 1;
}
