/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the OCI command line: which verb on which container, and where its options stand. */
#ifndef PR_ARGV_H
#define PR_ARGV_H

#include <stdbool.h>

/* Pointers go into argv; NULL where it was not given. */
struct pr_call {
	const char *root;
	const char *log;
	bool log_json;
	const char *verb;
	const char *id;
	const char *signal;         /* of kill */
	const char *bundle;         /* of create */
	const char *console_socket; /* of create */
	const char *pid_file;
	const char *format; /* of ps */
	bool force;         /* of delete */
	bool no_new_keyring;
	int pid_file_at;      /* argv index of the pid file's value; 0 if not given */
	bool pid_file_joined; /* "--pid-file=PATH": the value shares its word with the option */
};

/* Fills call from a runc command line; anything it does not know is left to runc. */
void pr_argv_parse(int argc, char *const *argv, struct pr_call *call);

#endif
