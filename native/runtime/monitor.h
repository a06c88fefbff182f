/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the container monitor's one structure and the parts that work on it. */
#ifndef PR_MONITOR_H
#define PR_MONITOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bytes.h"
#include "cgroup.h"
#include "settings.h"
#include "spawn.h"
#include "wire.h"

#define PR_CONNECTIONS     48
#define PR_TRIGGERS        8
#define PR_CRIU_TIMEOUT_MS 60000

struct pr_connection {
	int fd;
	bool lease;      /* a verb of the container runtime runs while this stays open */
	bool subscribed; /* is told of events */
	/* A question that is answered when the present change of state has ended. */
	uint16_t waits_for; /* 0, or the verb */
	uint32_t tag, flags;
};

/* What a wake needs; a copy of the ARM packet, in memory of its own. */
struct pr_armed {
	struct pr_blob packet;
	int fds[PR_FDS_MAX];
	int count;
	bool fired;
};

#define PR_SPACES_MAX 128

/* The pager of the last wake, and what its successor would need. */
struct pr_pager {
	pid_t pid;      /* 0 is none */
	int socket;     /* where it tells what it does; -1 is none */
	int connection; /* a duplicate of CRIU's connection to it; -1 is none */
	int status;     /* of the last one, once it has ended */
	bool early;     /* started before the wake that it is for */
	bool listening; /* CRIU may be asked */
	int restarts;
	char *argv;
	size_t argv_bytes;
	int held_count;
	struct {
		uint32_t space;
		int fd;
	} held[PR_SPACES_MAX];
};

/* What a change of state is to lead to. */
enum pr_goal {
	PR_TO_SLEEP,
	PR_TO_RUN_ON, /* a dump that changes nothing */
	PR_TO_HOLD,
	PR_TO_RESUME,
	PR_TO_DEPART,
	PR_TO_WAKE,
	PR_TO_STAGE,
	PR_TO_GO,
	PR_TO_DROP,
};

struct pr_operation {
	enum pr_goal goal;
	bool refused; /* whatever CRIU asks is denied, until it has undone its work and ends */
	bool answered, success, failed_early;
	pid_t made; /* the init that CRIU holds at its post-restore */
	bool init_exited;
	int init_status;
	bool restored; /* CRIU has given the new init */
	bool rewritten;
	int rpc; /* -1 is none */
	uint64_t deadline_ns;
	struct pr_event_item event;
	char message[400];
};

struct pr_monitor {
	struct pr_settings settings;
	char directory[PR_PATH_BYTES];
	char runc_state[PR_PATH_BYTES];
	char exec_fifo[PR_PATH_BYTES];
	char images[PR_PATH_BYTES];
	char cpu_note[PR_PATH_BYTES];
	bool terminal, no_new_keyring;
	int stdio[3];
	int log, signals, listener;
	struct pr_cgroups own, container;
	enum pr_state state;
	uint64_t since_ns, sequence;
	uint32_t sleeps, wakes;
	pid_t init;
	uint64_t init_start;
	int init_pidfd;
	int shim_pidfd; /* readable once containerd's shim has ended; -1 from then on */
	bool orphaned;
	pid_t known_to_runc; /* what state.json names: the init, or the placeholder */
	pid_t criu;
	int breakpoints;   /* keeps them ready for a CRIU that restores; -1 is nothing */
	bool ready_wanted; /* a sleeper's CRIU is to be started as soon as the last one has ended */
	bool prepared;     /* CRIU waits for the request of a container that is claimed or asleep */
	bool arrived;      /* it runs by a move, not by runc's start */
	bool started;      /* runc's start was answered while it was claimed */
	int agreed;        /* what a departed container ends with */
	struct pr_pager pager;
	bool remove_images;
	struct pr_placeholder placeholder;
	struct pr_operation operation;
	struct pr_armed armed;
	struct pr_connection connections[PR_CONNECTIONS];
};

/* monitor.c: what containerd takes for the container */
__attribute__((noreturn)) void pr_monitor_run(struct pr_monitor *monitor);
__attribute__((noreturn)) void pr_monitor_end(struct pr_monitor *monitor, int status);
/* The same, and everything in the container's cgroup with it. */
__attribute__((noreturn)) void pr_monitor_end_all(struct pr_monitor *monitor, int status);
void pr_monitor_enter(struct pr_monitor *monitor, enum pr_state state);
__attribute__((format(printf, 2, 3))) void pr_monitor_log(struct pr_monitor *monitor,
							  const char *format, ...);
int pr_monitor_set_init(struct pr_monitor *monitor, pid_t pid);

/* serve.c: connections and verbs */
void pr_serve_accept(struct pr_monitor *monitor);
void pr_serve_readable(struct pr_monitor *monitor, struct pr_connection *connection);
/* Answers those who wait for the end of a change of state. */
void pr_serve_settled(struct pr_monitor *monitor, int32_t status, const char *text);
void pr_serve_event(struct pr_monitor *monitor, const struct pr_event_item *event,
		    const char *text);
int pr_serve_leases(const struct pr_monitor *monitor);
void pr_serve_wait(struct pr_connection *connection, const struct pr_header *header);
void pr_serve_answer(struct pr_monitor *monitor, struct pr_connection *connection, uint16_t verb,
		     uint32_t tag, int32_t status, const char *text);

/* serve_move.c: the verbs of a move; false if it is none of them. */
bool pr_serve_move(struct pr_monitor *monitor, struct pr_connection *connection,
		   const struct pr_header *header, const uint8_t *packet, size_t bytes,
		   const int *fds, int count);
/* One of them has waited for the end of a change of state. */
void pr_serve_move_settled(struct pr_monitor *monitor, struct pr_connection *connection,
			   const struct pr_header *header, int32_t status, const char *text);

/* sleep.c */
/* Starts CRIU for a dump that is about to be asked for; the container runs on. */
int32_t pr_sleep_prepare(struct pr_monitor *monitor, const uint8_t *packet, size_t bytes,
			 const int *fds, int count, const char **why);
int32_t pr_sleep_begin(struct pr_monitor *monitor, uint32_t flags, const uint8_t *packet,
		       size_t bytes, const int *fds, int count, const char **why);
void pr_sleep_advance(struct pr_monitor *monitor);
void pr_sleep_placeholder_died(struct pr_monitor *monitor);
/* kept: a descriptor that it holds open, or -1. */
int pr_sleep_start_placeholder(struct pr_monitor *monitor, int kept);
void pr_sleep_drop_placeholder(struct pr_monitor *monitor);
/* It is in the container's cgroup from then on. */
void pr_sleep_placeholder_joins(struct pr_monitor *monitor);
/* The tasks are gone, the placeholder stands for them. */
void pr_sleep_absent(struct pr_monitor *monitor);

/* hold.c: the way from held to running or departed, on the node that is left */
void pr_hold_reached(struct pr_monitor *monitor);
int32_t pr_hold_resume(struct pr_monitor *monitor, const char **why);
int32_t pr_hold_depart(struct pr_monitor *monitor, int status, const char **why);
void pr_hold_advance(struct pr_monitor *monitor);

/* claim.c: the way from created to running by a move, on the node that is reached */
int32_t pr_claim_begin(struct pr_monitor *monitor, const char **why);
int32_t pr_claim_undo(struct pr_monitor *monitor, const char **why);
int32_t pr_claim_prepare(struct pr_monitor *monitor, const char **why);
int32_t pr_claim_go(struct pr_monitor *monitor, const char **why);
int32_t pr_claim_drop(struct pr_monitor *monitor, const char **why);
void pr_claim_staged(struct pr_monitor *monitor, pid_t made);
/* CRIU has ended while it held a staged container, or waited for its request. */
void pr_claim_criu_ended(struct pr_monitor *monitor);
/* What CRIU has made ends; it may be staged again. */
void pr_claim_give_up(struct pr_monitor *monitor);
/* Whether a change of state is one of a claimed container. */
bool pr_claim_changing(const struct pr_monitor *monitor);
/* Whether the file that announces a claim is there; it goes. */
bool pr_claim_announced(const struct pr_monitor *monitor);

/* wake.c */
int32_t pr_wake_arm(struct pr_monitor *monitor, uint32_t flags, const uint8_t *packet, size_t bytes,
		    const int *fds, int count, const char **why);
void pr_wake_disarm(struct pr_monitor *monitor);
/* Starts CRIU and the pager of a sleeper that has been armed: a wake does not wait for them. */
void pr_wake_prepare(struct pr_monitor *monitor);
/* That of the sleep has ended, or the one that waited. */
void pr_wake_criu_ended(struct pr_monitor *monitor);
int32_t pr_wake_begin(struct pr_monitor *monitor, uint32_t cause, const char **why);
int32_t pr_wake_stage(struct pr_monitor *monitor, const char **why);
int pr_wake_start_criu(struct pr_monitor *monitor);
/* The CRIU that needed them has ended. */
void pr_wake_breakpoints_done(struct pr_monitor *monitor);
void pr_wake_advance(struct pr_monitor *monitor);
/* The triggers of a sleeping container that has been armed; how many. */
int pr_wake_triggers(const struct pr_monitor *monitor, int *fds);
/* The pager is ready for CRIU, which gets its request now. */
void pr_wake_pager_listens(struct pr_monitor *monitor);
/* All memory is in. */
void pr_wake_filled(struct pr_monitor *monitor);
/* Fail closed: what nobody may know of, or whose memory is wrong, must not run. */
__attribute__((noreturn)) void pr_wake_lost(struct pr_monitor *monitor, const char *why);

/* pager.c */
int pr_pager_start(struct pr_monitor *monitor, const struct pr_view *argv, const int *given,
		   int count);
void pr_pager_readable(struct pr_monitor *monitor);
void pr_pager_ended(struct pr_monitor *monitor, int status);
void pr_pager_let_go(struct pr_pager *pager);

/* operation.c: what sleep and wake have in common, CRIU's answers */
void pr_operation_start(struct pr_monitor *monitor, enum pr_goal goal, uint32_t cause,
			int timeout_ms);
/* The second half: CRIU, if it lives, is to be told how to go on. */
void pr_operation_go_on(struct pr_monitor *monitor, enum pr_goal goal, enum pr_state state,
			int timeout_ms);
/* The first half is done: CRIU waits for the answer to its notification. */
void pr_operation_pause(struct pr_monitor *monitor, enum pr_state state);
/* A change of state that takes no time. */
void pr_operation_at_once(struct pr_monitor *monitor, enum pr_state state, int32_t status,
			  const char *text);
/* Answers CRIU's notification; a CRIU that cannot be told is ended. */
void pr_operation_tell(struct pr_monitor *monitor, bool go_on);
/* Gives CRIU's end of a new RPC channel, or -errno; ours is in the operation. */
int pr_operation_channel(struct pr_monitor *monitor);
int pr_operation_send(struct pr_monitor *monitor, const struct pr_view *request);
void pr_operation_readable(struct pr_monitor *monitor);
/* CRIU's process has ended; what it has said before counts. */
void pr_operation_criu_ended(struct pr_monitor *monitor, int status);
__attribute__((format(printf, 2, 3))) void pr_operation_fail(struct pr_monitor *monitor,
							     const char *format, ...);
void pr_operation_abort(struct pr_monitor *monitor, const char *why);
void pr_operation_finish(struct pr_monitor *monitor, enum pr_state state, int32_t status);

#endif
