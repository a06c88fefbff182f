/* SPDX-License-Identifier: Apache-2.0 */
/* The target's store as the receiver fills it. Contents come from a peer: everything is bounded. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "podferry/store.h"
#include "store_table.h"

struct pf_store {
	int directory, images;
	uint64_t quota_bytes;
	uint64_t seed;
	uint64_t parts;        /* of files; each costs a page: empty files are not free */
	uint64_t under_way;    /* bytes that writers have room for and have not counted yet */
	struct pf_table table; /* its lock guards what follows too */
	pthread_cond_t quiet;
	unsigned writers; /* frames that are being stored */
	bool sealed;
	bool agreed; /* nothing has come since the sender has confirmed what is here */
	uint32_t round, first_round;
	atomic_uint references;
};

struct pf_store *pf_store_hold(struct pf_store *store);

/* Stores pages of one block: PAYLOAD and HASHES as the frame has them. */
int pf_store_put_pages(struct pf_store *store, int pid, uint64_t block, uint64_t data,
		       uint64_t zero, uint32_t round, const unsigned char *payload,
		       const uint64_t *hashes, struct pf_error *err);
/* SIZE: the whole file's, UINT64_MAX: not known. NAME is plain. */
int pf_store_put_part(struct pf_store *store, const char *name, uint64_t size, uint64_t offset,
		      const void *data, size_t bytes, uint64_t sum, struct pf_error *err);
int pf_store_drop(struct pf_store *store, int pid, struct pf_error *err);
/* Whether the sender's counts are the store's; GOT gets the store's. */
bool pf_store_agrees(struct pf_store *store, const struct pf_store_counts *theirs,
		     struct pf_store_counts *got);
/* Names of a process's files. */
#define PF_STORE_NAME_BYTES 32
void pf_store_data_name(int pid, char name[PF_STORE_NAME_BYTES]);
void pf_store_index_name(int pid, char name[PF_STORE_NAME_BYTES]);
