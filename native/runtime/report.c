/* SPDX-License-Identifier: Apache-2.0 */
/* Owns how the front tells of its own failures. */
#include "report.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void put(int fd, const char *text)
{
	if (write(fd, text, strlen(text)) < 0)
		return;
}

/* Quotes and control characters leave the message, so that the line stays JSON. */
static void make_plain(char *text)
{
	for (; *text; text++)
		if (*text == '"' || *text == '\\' || (unsigned char)*text < ' ')
			*text = '\'';
}

void pr_report(const struct pr_call *call, const char *format, ...)
{
	char message[512], line[768];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(message, sizeof message, format, arguments);
	va_end(arguments);
	make_plain(message);
	snprintf(line, sizeof line, "podferry-runtime: %s\n", message);
	put(2, line);
	int fd = call->log ? open(call->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
	if (fd < 0)
		return;
	struct tm when = {0};
	time_t now = time(NULL);
	gmtime_r(&now, &when);
	const char *shape = call->log_json
				    ? "{\"level\":\"error\",\"msg\":\"podferry-runtime: %s\","
				      "\"time\":\"%04d-%02d-%02dT%02d:%02d:%02dZ\"}\n"
				    : "podferry-runtime: %s (%04d-%02d-%02dT%02d:%02d:%02dZ)\n";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(line, sizeof line, shape, message, when.tm_year + 1900, when.tm_mon + 1,
		 when.tm_mday, when.tm_hour, when.tm_min, when.tm_sec);
#pragma GCC diagnostic pop
	put(fd, line);
	close(fd);
}
