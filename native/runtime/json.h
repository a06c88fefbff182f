/* SPDX-License-Identifier: Apache-2.0 */
/* Owns reading JSON in place: spans of one text, found without a tree and without memory. */
#ifndef PR_JSON_H
#define PR_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One value inside the text, its quotes or brackets included. */
struct pr_span {
	const char *at;
	size_t bytes;
};

/* The one value of a document; false if the text is not one well-formed value. */
bool pr_json_document(const char *text, size_t bytes, struct pr_span *value);

/* Steps through an object's members or an array's elements; *cursor starts at NULL. False at the
 * end. The span must come from a document that pr_json_document accepted. */
bool pr_json_member(struct pr_span object, const char **cursor, struct pr_span *key,
		    struct pr_span *value);
bool pr_json_element(struct pr_span array, const char **cursor, struct pr_span *value);

/* The member of that name; false if there is none or the span is no object. */
bool pr_json_get(struct pr_span object, const char *name, struct pr_span *value);
/* Along several names, NULL at the end. */
bool pr_json_find(struct pr_span object, const char *const *names, struct pr_span *value);

/* A string without its escapes, NUL-terminated; false if it is none, too long or holds a NUL. */
bool pr_json_string(struct pr_span value, char *out, size_t size);
bool pr_json_is(struct pr_span value, const char *text);
bool pr_json_unsigned(struct pr_span value, uint64_t *out);

#endif
