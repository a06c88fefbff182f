// SPDX-License-Identifier: Apache-2.0
/* Owns the tracker: the ladder of modes, and the rounds over a process's mappings. */
#include <errno.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "error.h"
#include "tracker.h"

static int open_files(struct pf_tracker *tracker, struct pf_error *err)
{
	int code;

	tracker->pidfd = (int)syscall(SYS_pidfd_open, tracker->pid, 0);
	if (tracker->pidfd < 0)
		return pf_fail_errno(err, "process %d", tracker->pid);
	code = pf_proc_open(tracker->pid, "maps", &tracker->maps, err);
	if (code == 0)
		code = pf_proc_open(tracker->pid, "pagemap", &tracker->pagemap, err);
	if (code == 0 && pf_scanner_init(&tracker->scanner, tracker->pagemap) < 0)
		code = pf_fail(err, -ENOMEM, "no memory to scan with");
	return code;
}

static void close_userfaultfd(struct pf_tracker *tracker)
{
	if (tracker->userfaultfd >= 0)
		close(tracker->userfaultfd);
	tracker->userfaultfd = -1;
}

static int fall_to_hash(struct pf_tracker *tracker, const struct pf_error *why,
			struct pf_error *err)
{
	close_userfaultfd(tracker);
	tracker->mode = PF_TRACKER_HASH;
	tracker->owed = true;
	snprintf(tracker->reason, sizeof(tracker->reason), "write protection: %.400s",
		 why->message);
	return pf_track_hash_open(tracker, err);
}

static int choose_mode(struct pf_tracker *tracker, int mode, struct pf_error *err)
{
	struct pf_error why = {0};
	int code;

	tracker->mode = mode;
	if (mode == PF_TRACKER_HASH)
		return pf_track_hash_open(tracker, err);
	if (mode != PF_TRACKER_AUTO && mode != PF_TRACKER_WP_ASYNC)
		return pf_fail(err, -EINVAL, "there is no mode %d of tracking", mode);
	tracker->mode = PF_TRACKER_WP_ASYNC;
	code = pf_track_wp_open(tracker, &why);
	if (code == 0)
		return 0;
	if (mode == PF_TRACKER_WP_ASYNC || code == -ESRCH)
		return pf_fail(err, code, "%s", why.message);
	return fall_to_hash(tracker, &why, err);
}

int pf_tracker_open(struct pf_tracker **out, pid_t pid, int mode, struct pf_error *err)
{
	struct pf_tracker *tracker = calloc(1, sizeof(*tracker));
	int code;

	if (!tracker)
		return pf_fail(err, -ENOMEM, "no memory for a tracker");
	tracker->pid = pid;
	tracker->pidfd = tracker->maps = tracker->pagemap = tracker->userfaultfd = -1;
	tracker->owed = true;
	code = open_files(tracker, err);
	if (code == 0)
		code = choose_mode(tracker, mode, err);
	if (code < 0) {
		pf_tracker_close(tracker);
		return code;
	}
	*out = tracker;
	return 0;
}

void pf_tracker_close(struct pf_tracker *tracker)
{
	if (!tracker)
		return;
	/* With its last descriptor the kernel takes every protection off. */
	close_userfaultfd(tracker);
	pf_cleanup_fd(&tracker->pidfd);
	pf_cleanup_fd(&tracker->maps);
	pf_cleanup_fd(&tracker->pagemap);
	pf_scanner_free(&tracker->scanner);
	pf_vmas_free(&tracker->vmas);
	pf_runs_free(&tracker->covered);
	pf_runs_free(&tracker->before);
	pf_runs_free(&tracker->found);
	pf_runs_free(&tracker->united);
	pf_runs_free(&tracker->gone);
	pf_hashes_free(&tracker->hashes);
	pf_pins_free(&tracker->pins);
	free(tracker->page_buffer);
	free(tracker);
}

int pf_tracker_mode(const struct pf_tracker *tracker)
{
	return tracker->mode;
}

const char *pf_tracker_reason(const struct pf_tracker *tracker)
{
	return tracker->reason;
}

uint64_t pf_tracker_stopped_ns(const struct pf_tracker *tracker)
{
	return tracker->stopped_ns;
}

void pf_tracker_forget(struct pf_tracker *tracker)
{
	tracker->owed = true;
}

static int no_memory(struct pf_error *err)
{
	return pf_fail(err, -ENOMEM, "no memory for runs of pages");
}

static int read_mappings(struct pf_tracker *tracker, struct pf_error *err)
{
	struct pollfd ended = {.fd = tracker->pidfd, .events = POLLIN};
	int code = pf_vmas_read(&tracker->vmas, tracker->maps, err);

	if (code < 0 || tracker->vmas.count > 0)
		return code;
	return poll(&ended, 1, 0) > 0
		       ? pf_fail(err, -ESRCH, "process %d has ended", tracker->pid)
		       : pf_fail(err, -ESTALE, "process %d executed another program", tracker->pid);
}

/* COVERED gets what this round is about. */
static int cover(struct pf_tracker *tracker, struct pf_round *round, struct pf_error *err)
{
	struct pf_runs before = tracker->before;

	tracker->before = tracker->covered;
	tracker->covered = before;
	tracker->covered.count = tracker->gone.count = 0;
	for (size_t i = 0; i < tracker->vmas.count; i++) {
		const struct pf_vma *vma = &tracker->vmas.list[i];

		if (!pf_vma_is_covered(vma))
			continue;
		round->mapping_count++;
		round->eligible_bytes += vma->end - vma->start;
		if (!pf_runs_add(&tracker->covered, vma->start, vma->end, 0))
			return no_memory(err);
	}
	return pf_runs_cut(&tracker->gone, &tracker->before, &tracker->covered, false)
		       ? 0
		       : no_memory(err);
}

static int scan_mappings(struct pf_tracker *tracker, bool everything, bool last,
			 struct pf_round *round, struct pf_error *err)
{
	int code = 0;

	tracker->found.count = 0;
	if (tracker->mode == PF_TRACKER_HASH && everything)
		pf_hashes_clear(&tracker->hashes);
	for (size_t i = 0; code == 0 && i < tracker->vmas.count; i++) {
		const struct pf_vma *vma = &tracker->vmas.list[i];

		if (!pf_vma_is_covered(vma))
			continue;
		if (tracker->mode == PF_TRACKER_HASH)
			code = pf_track_hash_scan(tracker, vma->start, vma->end, round, err);
		else
			code = pf_track_wp_scan(tracker, vma->start, vma->end, everything, !last,
						round, err);
	}
	if (code == 0 && tracker->mode == PF_TRACKER_HASH)
		pf_hashes_end_round(&tracker->hashes);
	return code;
}

/* What a device may have written without being seen; comparing hashes sees it. */
static int add_suspects(struct pf_tracker *tracker, bool last, struct pf_error *err)
{
	PF_AUTO_RUNS struct pf_runs again = {0};
	PF_AUTO_RUNS struct pf_runs there = {0};
	PF_AUTO_RUNS struct pf_runs present = {0};
	int code = 0;

	tracker->united.count = 0;
	if (last)
		pf_pins_glance(&tracker->pins, tracker->pid);
	else
		pf_pins_look(&tracker->pins, tracker->pid, &tracker->vmas);
	if (!pf_pins_turn(&tracker->pins, &tracker->found, tracker->last_ns, last, &again))
		return no_memory(err);
	if (!pf_runs_cut(&there, &again, &tracker->covered, true))
		return no_memory(err);
	for (size_t i = 0; last && tracker->pins.long_lived && i < tracker->covered.count; i++) {
		const struct pf_run *run = &tracker->covered.list[i];

		code = pf_scan(&tracker->scanner, run->vaddr, pf_run_end(run), PF_SCAN_PRESENT, 0,
			       &present);
		if (code < 0)
			return pf_fail(err, code, "PAGEMAP_SCAN of process %d: %s", tracker->pid,
				       strerror(-code));
	}
	return pf_runs_unite(&tracker->united, &tracker->found,
			     present.count > 0 ? &present : &there, PF_RUN_SUSPECT)
		       ? 0
		       : no_memory(err);
}

static void count(const struct pf_tracker *tracker, struct pf_round *round)
{
	const struct pf_runs *runs =
		tracker->mode == PF_TRACKER_HASH ? &tracker->found : &tracker->united;

	round->runs = runs->list;
	round->run_count = runs->count;
	round->gone = tracker->gone.list;
	round->gone_count = tracker->gone.count;
	for (size_t i = 0; i < runs->count; i++) {
		round->pages += runs->list[i].pages;
		if (runs->list[i].flags & PF_RUN_ZERO)
			round->zero_pages += runs->list[i].pages;
		if (runs->list[i].flags & PF_RUN_SUSPECT)
			round->suspect_pages += runs->list[i].pages;
	}
}

static int scan_once(struct pf_tracker *tracker, bool last, struct pf_round *round,
		     struct pf_error *err)
{
	bool everything = tracker->owed;
	struct pf_error why = {0};
	int code;

	tracker->owed = false;
	code = scan_mappings(tracker, everything, last, round, &why);
	if (code == -EBUSY && tracker->mode == PF_TRACKER_WP_ASYNC) {
		code = fall_to_hash(tracker, &why, err);
		round->registered_bytes = round->dirty_pages = 0;
		return code < 0 ? code : scan_once(tracker, last, round, err);
	}
	if (code < 0)
		return pf_fail(err, code, "%s", why.message);
	/* In the freeze nothing was protected: what was owed still is. */
	if (last && everything)
		tracker->owed = true;
	return tracker->mode == PF_TRACKER_HASH ? 0 : add_suspects(tracker, last, err);
}

static int run_round(struct pf_tracker *tracker, bool last, struct pf_round *out,
		     struct pf_error *err)
{
	struct pf_round round = {0};
	uint64_t begun = pf_now_ns(), before = tracker->last_ns;
	int code;

	tracker->last_ns = begun;
	code = read_mappings(tracker, err);
	if (code == 0)
		code = cover(tracker, &round, err);
	if (code == 0)
		code = scan_once(tracker, last, &round, err);
	if (code < 0) {
		tracker->owed = true;
		return code;
	}
	round.number = ++tracker->number;
	round.since_ns = round.number > 1 ? begun - before : 0;
	count(tracker, &round);
	round.scan_ns = pf_now_ns() - begun;
	*out = round;
	return 0;
}

int pf_tracker_round(struct pf_tracker *tracker, struct pf_round *out, struct pf_error *err)
{
	return run_round(tracker, false, out, err);
}

int pf_tracker_final(struct pf_tracker *tracker, struct pf_round *out, struct pf_error *err)
{
	return run_round(tracker, true, out, err);
}

int pf_same_memory(pid_t one, pid_t other, struct pf_error *err)
{
	long order = syscall(SYS_kcmp, one, other, KCMP_VM, 0, 0);

	if (order < 0 && errno != ESRCH)
		return pf_fail_errno(err, "comparing processes %d and %d", one, other);
	return order == 0;
}
