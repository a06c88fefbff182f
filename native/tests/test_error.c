// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>

#include "check.h"
#include "error.h"

static void the_code_is_returned_and_stored(void)
{
	struct pf_error err = {0};

	CHECK_EQUAL(pf_fail(&err, -EINVAL, "page %d", 7), -EINVAL);
	CHECK_EQUAL(err.code, -EINVAL);
	CHECK(strcmp(err.message, "page 7") == 0);
}

static void no_error_wanted_is_allowed(void)
{
	errno = ENOENT;
	CHECK_EQUAL(pf_fail(NULL, -EINVAL, "nobody reads this"), -EINVAL);
	CHECK_EQUAL(pf_fail_errno(NULL, "nor this"), -ENOENT);
}

static void errno_is_said_in_words(void)
{
	struct pf_error err = {0};

	errno = ENOENT;
	CHECK_EQUAL(pf_fail_errno(&err, "%s", "/nowhere"), -ENOENT);
	CHECK(strcmp(err.message, "/nowhere: No such file or directory") == 0);
}

static void a_failure_without_errno_is_still_negative(void)
{
	struct pf_error err = {0};

	errno = 0;
	CHECK_EQUAL(pf_fail_errno(&err, "x"), -EIO);
}

static void a_long_message_is_cut(void)
{
	struct pf_error err;
	char text[2 * PF_ERROR_MESSAGE_BYTES];

	memset(&err, 'x', sizeof(err));
	memset(text, 'y', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	errno = ENOENT;
	pf_fail_errno(&err, "%s", text);
	CHECK_EQUAL(strlen(err.message), PF_ERROR_MESSAGE_BYTES - 1);
}

int main(void)
{
	the_code_is_returned_and_stored();
	no_error_wanted_is_allowed();
	errno_is_said_in_words();
	a_failure_without_errno_is_still_negative();
	a_long_message_is_cut();
	return 0;
}
