// SPDX-License-Identifier: Apache-2.0
/* podferry-pager: gives lazily restored processes their memory; docs/pager.md. Owns the command
 * line and the exit status. */
#include "pager.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum exit_status {
	EXIT_ALL_IN = 0,
	EXIT_NOT_RESTORED = 1,  /* CRIU's restore has failed or will fail; nothing has run */
	EXIT_PAGES_MISSING = 2, /* another pager may go on */
	EXIT_LOST = 3,          /* none can: the container must be killed */
	EXIT_USAGE = 64,
};

struct options {
	const char *images, *set, *store, *work_dir, *journal;
	bool resume;
	int monitor, connection;
	struct given_fd *given;
	size_t given_count;
};

static const char usage[] =
	"usage: podferry-pager --images DIR [--set NAME] [--work-dir DIR] [--journal FILE]\n"
	"                      [--monitor-fd N]\n"
	"       podferry-pager --store DIR [--work-dir DIR] [--journal FILE] [--monitor-fd N]\n"
	"       podferry-pager --resume --journal FILE (--images DIR [--set NAME] | --store DIR)\n"
	"                      --uffd-fd SPACE:N ... [--connection-fd N] [--monitor-fd N]\n"
	"\n"
	"Serves the memory of processes that `criu restore --lazy-pages` restores, from the "
	"images\n"
	"in DIR/NAME or from the sealed page store DIR, and ends when everything is in. The\n"
	"socket is lazy-pages.socket in the work directory (by default DIR/NAME, or the store).\n"
	"See docs/pager.md.\n";

static bool number(const char *text, long least, long *value)
{
	char *end;

	errno = 0;
	*value = strtol(text, &end, 10);
	return errno == 0 && *text && !*end && *value >= least && *value <= INT_MAX;
}

static bool descriptor(const char *text, int *fd)
{
	long value;

	if (!number(text, 0, &value))
		return false;
	*fd = (int)value;
	return true;
}

static bool given_fd(struct options *options, char *text)
{
	char *colon = strchr(text, ':');
	struct given_fd *grown;
	long space;
	int fd;

	if (!colon)
		return false;
	*colon = '\0';
	if (!number(text, 0, &space) || !descriptor(colon + 1, &fd))
		return false;
	grown = reallocarray(options->given, options->given_count + 1, sizeof(*grown));
	if (!grown)
		return false;
	options->given = grown;
	grown[options->given_count++] = (struct given_fd){(uint32_t)space, fd};
	return true;
}

static bool option(struct options *options, int letter)
{
	switch (letter) {
	case 'i':
		options->images = optarg;
		return true;
	case 's':
		options->set = optarg;
		return true;
	case 'S':
		options->store = optarg;
		return true;
	case 'w':
		options->work_dir = optarg;
		return true;
	case 'j':
		options->journal = optarg;
		return true;
	case 'r':
		options->resume = true;
		return true;
	case 'm':
		return descriptor(optarg, &options->monitor);
	case 'c':
		return descriptor(optarg, &options->connection);
	case 'u':
		return given_fd(options, optarg);
	default:
		return false;
	}
}

static bool parse(int argc, char **argv, struct options *options)
{
	static const struct option known[] = {
		{"images", required_argument, NULL, 'i'},
		{"set", required_argument, NULL, 's'},
		{"store", required_argument, NULL, 'S'},
		{"work-dir", required_argument, NULL, 'w'},
		{"journal", required_argument, NULL, 'j'},
		{"resume", no_argument, NULL, 'r'},
		{"monitor-fd", required_argument, NULL, 'm'},
		{"connection-fd", required_argument, NULL, 'c'},
		{"uffd-fd", required_argument, NULL, 'u'},
		{0},
	};
	int letter;

	while ((letter = getopt_long(argc, argv, "", known, NULL)) != -1)
		if (!option(options, letter))
			return false;
	return optind == argc && !options->images != !options->store &&
	       (!options->resume || options->journal);
}

static int listen_for_criu(struct pager *pager, const struct options *options, struct pf_error *err)
{
	struct monitor_message message = {.type = MONITOR_LISTENING};
	char default_dir[PATH_MAX];
	const char *work_dir = options->work_dir;

	if (!work_dir && options->store)
		work_dir = options->store;
	if (!work_dir) {
		int used = snprintf(default_dir, sizeof(default_dir), "%s/%s", options->images,
				    options->set);

		if (used < 0 || (size_t)used >= sizeof(default_dir))
			return pf_fail(err, -ENAMETOOLONG, "the image set's name is too long");
		work_dir = default_dir;
	}
	pager->listener = criu_listen(work_dir, err);
	if (pager->listener < 0)
		return pager->listener;
	return monitor_send(pager->monitor, message, -1, err);
}

static int set_up(struct pager *pager, const struct options *options, struct pf_error *err)
{
	int code = pager_init(pager, err);

	if (code < 0)
		return code;
	pager->set = options->store ? NULL : options->set;
	pager->monitor = options->monitor;
	pager->connection = options->connection;
	pager->root = images_open_root(options->store ? options->store : options->images, err);
	if (pager->root < 0)
		return pager->root;
	code = journal_open(&pager->journal, options->journal, options->resume, err);
	if (code < 0)
		return code;
	return options->resume ? pager_resume(pager, options->given, options->given_count, err)
			       : listen_for_criu(pager, options, err);
}

static void say_all_in(struct pager *pager)
{
	struct monitor_message message = {.type = MONITOR_ALL_IN, .pages = pager->figures.placed};
	const struct pager_figures *figures = &pager->figures;

	fprintf(stderr,
		"podferry-pager: all in: pages=%llu zero_pages=%llu faults=%llu events=%llu "
		"fill_us=%lld\n",
		(unsigned long long)figures->placed, (unsigned long long)figures->zeroed,
		(unsigned long long)figures->faults, (unsigned long long)figures->events,
		(long long)(pager_now_ns() - figures->restored_ns) / 1000);
	monitor_send(pager->monitor, message, -1, NULL);
}

static struct pager pager; /* too large for a stack */

int main(int argc, char **argv)
{
	struct options options = {.set = ".", .monitor = -1, .connection = -1};
	struct pf_error err = {0};
	int code, status;

	if (!parse(argc, argv, &options)) {
		fputs(usage, stderr);
		return EXIT_USAGE;
	}
	signal(SIGPIPE, SIG_IGN); /* whoever reads its stderr may be gone before it is done */
	code = set_up(&pager, &options, &err);
	if (code < 0) {
		status = options.resume ? EXIT_LOST : EXIT_NOT_RESTORED;
	} else {
		code = faults_run(&pager);
		err = pager.error;
		status = pager.restored ? EXIT_PAGES_MISSING : EXIT_NOT_RESTORED;
	}
	if (code < 0) {
		fprintf(stderr, "podferry-pager: %s\n", err.message);
	} else {
		say_all_in(&pager);
		status = EXIT_ALL_IN;
	}
	pager_free(&pager);
	free(options.given);
	return status;
}
