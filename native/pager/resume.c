// SPDX-License-Identifier: Apache-2.0
/* Owns the way from an earlier pager's journal to the state it had when it was killed. Which pages
 * are in is not recorded: the kernel refuses to place a page where one is. */
#include "pager.h"

#include <errno.h>

int pager_apply_event(struct space *space, const struct uffd_msg *message, struct pf_error *err)
{
	uint64_t start = message->arg.remove.start, end = message->arg.remove.end;

	switch (message->event) {
	case UFFD_EVENT_REMOVE:
		runs_settle(&space->runs, start, end);
		return 0;
	case UFFD_EVENT_UNMAP:
		return runs_unmap(&space->runs, start, end, err);
	case UFFD_EVENT_REMAP:
		return runs_remap(&space->runs, message->arg.remap.from, message->arg.remap.to,
				  message->arg.remap.len, err);
	default:
		return pf_fail(err, -EPROTO, "the kernel's message %u of process %d is unknown",
			       message->event, space->pid);
	}
}

static int replay_event(struct pager *pager, const struct journal_record *record,
			struct pf_error *err)
{
	struct space *space;

	if (record->space >= pager->count)
		return pf_fail(err, -EINVAL, "the journal speaks of an unknown space %u",
			       record->space);
	space = pager->spaces[record->space];
	if (!space->runs.placed) /* over */
		return 0;
	if (record->message.event == UFFD_EVENT_FORK)
		return pager_add_child(pager, space, -1, err);
	return pager_apply_event(space, &record->message, err);
}

static int replay(struct pager *pager, const struct journal_record *record, struct pf_error *err)
{
	switch (record->kind) {
	case JOURNAL_PROCESS:
		return pager_add_process(pager, (int)record->number, -1, err);
	case JOURNAL_EVENT:
		return replay_event(pager, record, err);
	case JOURNAL_OVER:
		if (record->space >= pager->count)
			return pf_fail(err, -EINVAL, "the journal ends an unknown space %u",
				       record->space);
		runs_free(&pager->spaces[record->space]->runs);
		return 0;
	case JOURNAL_RESTORED:
		pager->restored = true;
		return 0;
	default:
		return pf_fail(err, -EINVAL, "the journal has a record of unknown kind %u",
			       record->kind);
	}
}

static const struct given_fd *find_given(const struct given_fd *given, size_t count, uint32_t space)
{
	for (size_t at = 0; at < count; at++)
		if (given[at].space == space)
			return &given[at];
	return NULL;
}

/* The record that was under way: the kernel or CRIU may have written it, and if so, it counts. */
static int replay_last(struct pager *pager, const struct given_fd *given, size_t count,
		       struct pf_error *err)
{
	struct journal_record *record = &pager->journal.records[pager->journal.head->count];
	int code;

	if (record->kind == JOURNAL_INTAKE && record->number == CRIU_RESTORE_FINISHED) {
		record->kind = JOURNAL_RESTORED;
	} else if (record->kind == JOURNAL_INTAKE && (int)record->number > 0) {
		if (!find_given(given, count, pager->count)) {
			/* Its descriptor is still in the connection, or lost with the pager. */
			pager->pid_without_fd = record->number;
			return 0;
		}
		record->kind = JOURNAL_PROCESS;
	} else if (record->kind != JOURNAL_RESTORED && record->kind != JOURNAL_PROCESS &&
		   record->kind != JOURNAL_OVER &&
		   (record->kind != JOURNAL_EVENT || record->message.event == 0 ||
		    record->message.event == UFFD_EVENT_PAGEFAULT)) {
		return 0;
	}
	code = replay(pager, record, err);
	if (code == 0)
		journal_commit(&pager->journal);
	return code;
}

static int take_over(struct pager *pager, struct space *space, const struct given_fd *given,
		     struct pf_error *err)
{
	int code;

	if (!given)
		return pf_fail(
			err, -ENOKEY,
			"the userfaultfd of space %u (process %d) is lost: kill the container",
			space->id, space->pid);
	code = pager_watch(pager, space, given->fd, err);
	/* A fault that the dead pager has read is not told again; let its thread fault again. */
	if (code == 0)
		wake_all(given->fd);
	return code;
}

int pager_resume(struct pager *pager, const struct given_fd *given, size_t count,
		 struct pf_error *err)
{
	uint64_t records = pager->journal.head->count;
	int code = 0;

	for (uint64_t at = 0; code == 0 && at < records; at++)
		code = replay(pager, &pager->journal.records[at], err);
	if (code == 0)
		code = replay_last(pager, given, count, err);
	if (code < 0)
		return code;
	for (uint32_t id = 0; id < pager->count; id++)
		if (pager->spaces[id]->runs.placed) {
			code = take_over(pager, pager->spaces[id], find_given(given, count, id),
					 err);
			if (code < 0)
				return code;
		}
	if (!pager->restored && pager->connection < 0)
		return pf_fail(err, -ENOTCONN, "CRIU's connection is needed to go on");
	return pager->restored ? pager_set_restored(pager, err) : 0;
}
