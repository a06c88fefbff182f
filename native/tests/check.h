/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of the C tests: a failed one says where and what, and ends the program. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#define PF_TEST_SKIP 77

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

#define CHECK_EQUAL(left, right)                                                                   \
	do {                                                                                       \
		long long left_value = (long long)(left), right_value = (long long)(right);        \
		if (left_value != right_value) {                                                   \
			fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__,       \
				#left, left_value, right_value);                                   \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)
