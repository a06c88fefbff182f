/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the OCI command line as runc reads it; decides nothing. */
#include "argv.h"

#include <stddef.h>
#include <string.h>

/* Options of runc that take a value in the next word. One that is missing here would make its
 * value look like the container's id, and the call would pass to runc unmanaged. */
static const char *const with_value[] = {"root",
					 "log",
					 "log-format",
					 "criu",
					 "rootless",
					 "bundle",
					 "b",
					 "console-socket",
					 "pidfd-socket",
					 "pid-file",
					 "preserve-fds",
					 "process",
					 "p",
					 "cwd",
					 "env",
					 "e",
					 "user",
					 "u",
					 "additional-gids",
					 "g",
					 "process-label",
					 "apparmor",
					 "cap",
					 "c",
					 "cgroup",
					 "format",
					 "f",
					 "interval",
					 "image-path",
					 "work-path",
					 "parent-path",
					 "manage-cgroups-mode",
					 "empty-ns",
					 "lsm-profile",
					 "lsm-mount-context",
					 "status-fd",
					 "page-server",
					 "resources",
					 "r",
					 "blkio-weight",
					 "cpu-period",
					 "cpu-quota",
					 "cpu-burst",
					 "cpu-share",
					 "cpu-rt-period",
					 "cpu-rt-runtime",
					 "cpuset-cpus",
					 "cpuset-mems",
					 "memory",
					 "memory-reservation",
					 "memory-swap",
					 "pids-limit",
					 "l3-cache-schema",
					 "mem-bw-schema",
					 "cpu-idle",
					 NULL};

/* Letters that take a value for one verb and are a switch for another. */
static bool is_switch(const char *verb, const char *name)
{
	if (!verb)
		return false;
	if (!strcmp(verb, "delete") && !strcmp(name, "f"))
		return true;
	return strcmp(verb, "exec") &&
	       (!strcmp(name, "e") || !strcmp(name, "u") || !strcmp(name, "c") ||
		!strcmp(name, "g") || !strcmp(name, "p"));
}

static bool takes_value(const char *verb, const char *name, size_t length)
{
	char plain[32];
	if (length >= sizeof plain)
		return false;
	memcpy(plain, name, length);
	plain[length] = '\0';
	if (is_switch(verb, plain))
		return false;
	for (const char *const *one = with_value; *one; one++)
		if (!strcmp(*one, plain))
			return true;
	return false;
}

static bool named(const char *name, size_t length, const char *wanted)
{
	return strlen(wanted) == length && !memcmp(name, wanted, length);
}

static void take_option(struct pr_call *call, const char *name, size_t length, const char *value)
{
	if (!call->verb) {
		if (named(name, length, "root"))
			call->root = value;
		if (named(name, length, "log"))
			call->log = value;
		if (named(name, length, "log-format"))
			call->log_json = value && !strcmp(value, "json");
		return;
	}
	bool no = value && (!strcmp(value, "false") || !strcmp(value, "0"));
	if (named(name, length, "bundle") || named(name, length, "b"))
		call->bundle = value;
	if (named(name, length, "console-socket"))
		call->console_socket = value;
	if (named(name, length, "pid-file"))
		call->pid_file = value;
	if (named(name, length, "no-new-keyring"))
		call->no_new_keyring = !no;
	if (!strcmp(call->verb, "ps") &&
	    (named(name, length, "format") || named(name, length, "f")))
		call->format = value;
	if (!strcmp(call->verb, "delete") &&
	    (named(name, length, "force") || named(name, length, "f")))
		call->force = !no;
}

void pr_argv_parse(int argc, char *const *argv, struct pr_call *call)
{
	*call = (struct pr_call){0};
	bool options = true;
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];
		if (options && !strcmp(word, "--")) {
			options = false;
			continue;
		}
		if (!options || word[0] != '-' || !word[1]) {
			if (!call->verb) {
				call->verb = word;
				continue;
			}
			if (!call->id) {
				call->id = word;
			} else {
				call->signal = word;
				return;
			}
			/* Behind the id, exec and ps carry another program's words. */
			if (!strcmp(call->verb, "exec") || !strcmp(call->verb, "ps"))
				return;
			continue;
		}
		const char *name = word + (word[1] == '-' ? 2 : 1);
		const char *equals = strchr(name, '=');
		size_t length = equals ? (size_t)(equals - name) : strlen(name);
		const char *value = equals ? equals + 1 : NULL;
		if (!equals && takes_value(call->verb, name, length) && i + 1 < argc)
			value = argv[++i];
		if (call->verb && named(name, length, "pid-file")) {
			call->pid_file_at = i;
			call->pid_file_joined = equals != NULL;
		}
		take_option(call, name, length, value);
	}
}
