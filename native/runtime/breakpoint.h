/* SPDX-License-Identifier: Apache-2.0 */
/* Owns a perf event that counts nothing and keeps the kernel's breakpoints ready. */
#ifndef PR_BREAKPOINT_H
#define PR_BREAKPOINT_H

/* The first breakpoint that is set on a machine waits for all processors to have noticed that there
 * are events now (kernel/events/core.c, account_event: synchronize_rcu), 12 to 20 ms. CRIU catches
 * what it has restored by breakpoints, so a wake and a move's commit waited for that. While an
 * event of some task exists, and for a second after, nobody waits.
 *
 * Waits in the breakpoint's place. Gives a descriptor, or -1 where such events are forbidden: then
 * CRIU waits. */
int pr_breakpoint_ready(void);

#endif
