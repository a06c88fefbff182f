// SPDX-License-Identifier: Apache-2.0
// Preloaded into postgres, which refuses root. CRIU, which is root, reads the limits of another
// user's process only with CAP_SYS_RESOURCE, which not every machine gives away.
#include <unistd.h>

enum { SOMEBODY = 1000 };

uid_t geteuid(void)
{
	return SOMEBODY;
}

uid_t getuid(void)
{
	return SOMEBODY;
}
