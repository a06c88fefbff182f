// SPDX-License-Identifier: Apache-2.0
// Holds namespaces open and reaps orphans: process 1 of every test pod and of a plain node.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	sigset_t wanted;
	int signal_no;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigaddset(&wanted, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &wanted, NULL) != 0)
		return 1;
	// Orphans may have died before the mask was set.
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (sigwait(&wanted, &signal_no) != 0)
			return 1;
		if (signal_no != SIGCHLD)
			return 0;
	}
}
