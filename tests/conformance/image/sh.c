// SPDX-License-Identifier: Apache-2.0
// The shell of critest's stand-in images. Debian's static busybox is built to run its own applets
// whatever stands in PATH, and says "line 0" in its errors; the image that critest asks for does
// neither. So a lone command that PATH has is run from PATH here; all else is busybox's shell.
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOT_EXECUTABLE 126

static int is_word(const char *text)
{
	for (const char *c = text; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("_-.", *c))
			return 0;
	return *text != '\0';
}

// Runs the word from PATH; returns if PATH has no such file.
static void run_from_path(const char *shell, char *word)
{
	const char *path = getenv("PATH");
	char *dirs = strdup(path ? path : "/usr/sbin:/usr/bin:/sbin:/bin");
	char file[PATH_MAX];
	char *argv[] = {word, NULL};
	int refused = 0;

	for (char *dir = dirs ? strtok(dirs, ":") : NULL; dir; dir = strtok(NULL, ":")) {
		snprintf(file, sizeof(file), "%s/%s", dir, word);
		execv(file, argv);
		refused |= errno == EACCES;
	}
	free(dirs);
	if (refused) {
		fprintf(stderr, "%s: %s: Permission denied\n", shell, word);
		exit(NOT_EXECUTABLE);
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "-c") == 0 && is_word(argv[2]))
		run_from_path(argv[0], argv[2]);
	execv("/usr/bin/busybox", argv);
	perror("/usr/bin/busybox");
	return NOT_EXECUTABLE;
}
