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
	uint16_t waits_for; /* 0, PR_LEASE, PR_WAKE, PR_CHECKPOINT, PR_KILL */
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
	int restarts;
	char *argv;
	size_t argv_bytes;
	int held_count;
	struct {
		uint32_t space;
		int fd;
	} held[PR_SPACES_MAX];
};

struct pr_operation {
	bool leave_running;
	bool answered, success, failed_early;
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

/* sleep.c */
int32_t pr_sleep_begin(struct pr_monitor *monitor, uint32_t flags, const uint8_t *packet,
		       size_t bytes, const int *fds, int count, const char **why);
void pr_sleep_advance(struct pr_monitor *monitor);
void pr_sleep_placeholder_died(struct pr_monitor *monitor);

/* wake.c */
int32_t pr_wake_arm(struct pr_monitor *monitor, uint32_t flags, const uint8_t *packet, size_t bytes,
		    const int *fds, int count, const char **why);
void pr_wake_disarm(struct pr_monitor *monitor);
int32_t pr_wake_begin(struct pr_monitor *monitor, uint32_t cause, const char **why);
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
void pr_operation_start(struct pr_monitor *monitor, uint32_t cause, int timeout_ms);
/* Gives CRIU's end of a new RPC channel, or -errno; ours is in the operation. */
int pr_operation_channel(struct pr_monitor *monitor);
int pr_operation_send(struct pr_monitor *monitor, const struct pr_view *request);
void pr_operation_readable(struct pr_monitor *monitor);
/* CRIU's process has ended; what it has said before counts. */
void pr_operation_criu_ended(struct pr_monitor *monitor);
__attribute__((format(printf, 2, 3))) void pr_operation_fail(struct pr_monitor *monitor,
							     const char *format, ...);
void pr_operation_abort(struct pr_monitor *monitor, const char *why);
void pr_operation_finish(struct pr_monitor *monitor, enum pr_state state, int32_t status);

#endif
