// SPDX-License-Identifier: Apache-2.0
/* JSON, the command line, the settings file: what they accept, and that nothing reads beyond. */
#include <stdint.h>
#include <string.h>

#include "argv.h"
#include "bundle.h"
#include "check.h"
#include "criu_rpc.h"
#include "json.h"
#include "proc.h"
#include "settings.h"
#include "wire.h"

static bool accepts(const char *text)
{
	struct pr_span value;

	return pr_json_document(text, strlen(text), &value);
}

static void json_takes_what_is_json(void)
{
	CHECK(accepts("{}"));
	CHECK(accepts(" [1, -2.5e+3, \"a\\u00e9\\n\", true, false, null, {\"a\": []}] \n"));
	CHECK(!accepts(""));
	CHECK(!accepts("{"));
	CHECK(!accepts("{\"a\":1,}"));
	CHECK(!accepts("[1 2]"));
	CHECK(!accepts("{} {}"));
	CHECK(!accepts("\"\\x\""));
	CHECK(!accepts("\"\\u12g4\""));
	CHECK(!accepts("01x"));
	CHECK(!accepts("nul"));
}

static void json_is_not_taken_too_deep(void)
{
	char text[400];

	memset(text, '[', 200);
	memset(text + 200, ']', 200);
	struct pr_span value;
	CHECK(!pr_json_document(text, 400, &value));
	CHECK(pr_json_document(text + 180, 40, &value));
}

static void json_values_are_found_and_decoded(void)
{
	static const char text[] = "{\"k\": {\"a\\u0062\": [\"x\\/y\", 7, \"\\ud83d\\ude00\"]}}";
	static const char *const path[] = {"k", "ab", NULL};
	struct pr_span document, list, one;
	const char *cursor = NULL;
	char out[16];
	uint64_t number;

	CHECK(pr_json_document(text, strlen(text), &document));
	CHECK(pr_json_find(document, path, &list));
	CHECK(pr_json_element(list, &cursor, &one));
	CHECK(pr_json_is(one, "x/y"));
	CHECK(pr_json_element(list, &cursor, &one));
	CHECK(pr_json_unsigned(one, &number));
	CHECK_EQUAL(number, 7);
	CHECK(pr_json_element(list, &cursor, &one));
	CHECK(pr_json_string(one, out, sizeof(out)));
	CHECK(strcmp(out, "\xf0\x9f\x98\x80") == 0);
	CHECK(!pr_json_string(one, out, 4));
	CHECK(!pr_json_element(list, &cursor, &one));
	CHECK(!pr_json_get(document, "ab", &one));
}

static void a_string_with_nul_is_none(void)
{
	struct pr_span value;
	char out[16];

	CHECK(pr_json_document("\"a\\u0000b\"", 10, &value));
	CHECK(!pr_json_string(value, out, sizeof(out)));
}

#define PARSE(...)                                                                                 \
	char *argv[] = {"runc", __VA_ARGS__, NULL};                                                \
	struct pr_call call;                                                                       \
	pr_argv_parse((int)(sizeof(argv) / sizeof(*argv)) - 1, argv, &call)

static void create_as_containerd_calls_it(void)
{
	PARSE("--root", "/r/k8s.io", "--log", "/l.json", "--log-format", "json", "create",
	      "--bundle", "/b", "--pid-file", "/p", "--console-socket", "/c", "ID");
	CHECK(!strcmp(call.root, "/r/k8s.io") && !strcmp(call.log, "/l.json") && call.log_json);
	CHECK(!strcmp(call.verb, "create") && !strcmp(call.id, "ID"));
	CHECK(!strcmp(call.bundle, "/b") && !strcmp(call.pid_file, "/p"));
	CHECK(!strcmp(call.console_socket, "/c"));
	CHECK_EQUAL(call.pid_file_at, 11);
	CHECK(!call.pid_file_joined);
}

static void switches_take_no_value(void)
{
	PARSE("--systemd-cgroup", "--root=/r", "create", "--no-pivot", "--no-new-keyring", "-b",
	      "/b", "--pid-file=/p", "ID");
	CHECK(!strcmp(call.root, "/r") && !strcmp(call.id, "ID") && call.no_new_keyring);
	CHECK(call.pid_file_joined && !strcmp(call.pid_file, "/p"));
}

static void force_of_delete(void)
{
	PARSE("delete", "--force", "ID");
	CHECK(call.force && !strcmp(call.id, "ID"));
}

static void short_force_of_delete(void)
{
	PARSE("delete", "-f", "ID");
	CHECK(call.force && !strcmp(call.id, "ID"));
}

static void another_programs_words_are_not_ours(void)
{
	PARSE("exec", "--cwd", "/", "-e", "A=1", "ID", "delete", "--force", "--pid-file", "x");
	CHECK(!strcmp(call.verb, "exec") && !strcmp(call.id, "ID"));
	CHECK(!call.force && !call.pid_file && !call.pid_file_at);
}

static void kill_with_a_signal(void)
{
	PARSE("kill", "--all", "ID", "9");
	CHECK(!strcmp(call.id, "ID") && !strcmp(call.signal, "9"));
}

static void nothing_at_all(void)
{
	char *argv[] = {"runc", NULL};
	struct pr_call call;

	pr_argv_parse(1, argv, &call);
	CHECK(!call.verb && !call.id);
}

static void settings_lines(void)
{
	static struct pr_settings settings;

	pr_settings_parse("# unmanaged no\nunmanaged kube-system\nunmanaged  a \nrunc /x/runc\n"
			  "nonsense\nunmanaged\ncriu /y/criu",
			  &settings);
	CHECK(pr_settings_unmanaged(&settings, "kube-system"));
	CHECK(pr_settings_unmanaged(&settings, "a"));
	CHECK(!pr_settings_unmanaged(&settings, "kube"));
	CHECK(!pr_settings_unmanaged(&settings, "no"));
	CHECK(!strcmp(settings.runc, "/x/runc") && !strcmp(settings.criu, "/y/criu"));
}

static void stat_lines(void)
{
	struct pr_proc proc;

	CHECK(pr_proc_parse("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99 20",
			    &proc));
	CHECK_EQUAL(proc.parent, 1);
	CHECK_EQUAL(proc.start, 99);
	CHECK_EQUAL(proc.state, 'S');
	CHECK(!pr_proc_parse("7 (a) S 1 2 3", &proc));
	CHECK(!pr_proc_parse("7 (a", &proc));
	CHECK(!pr_proc_parse("", &proc));
}

static void criu_answers(void)
{
	static const uint8_t restored[] = {8, 2, 16, 1, 34, 3, 8, 0xAC, 2};
	static const uint8_t notify[] = {8,   6,   16,  1,   42,  11,  10,  9,  'p',
					 'o', 's', 't', '-', 'd', 'u', 'm', 'p'};
	static const uint8_t failed[] = {8, 1, 16, 0, 56, 95, 74, 2, 'n', 'o'};
	struct pr_criu_answer answer;

	CHECK(pr_criu_parse(restored, sizeof(restored), &answer));
	CHECK(answer.type == PR_CRIU_RESTORE && answer.success && answer.pid == 300);
	CHECK(pr_criu_parse(notify, sizeof(notify), &answer));
	CHECK(answer.type == PR_CRIU_NOTIFY && !strcmp(answer.script, "post-dump"));
	CHECK(pr_criu_parse(failed, sizeof(failed), &answer));
	CHECK(!answer.success && answer.error == 95 && !strcmp(answer.message, "no"));
	CHECK(!pr_criu_parse(notify, sizeof(notify) - 1, &answer));
	CHECK_EQUAL(pr_criu_request_type(pr_criu_go_on, sizeof(pr_criu_go_on)), PR_CRIU_NOTIFY);
}

static void packets(void)
{
	uint8_t buffer[256];
	struct pr_packet packet;
	struct pr_header header;
	struct pr_view item;
	char text[8];

	pr_wire_start(&packet, buffer, sizeof(buffer), PR_ARM, 5, 0, PR_FLAG_FORCE);
	CHECK(pr_wire_add(&packet, PR_ITEM_TEXT, "abc", 3));
	CHECK(pr_wire_add(&packet, PR_ITEM_IMAGES, "", 0));
	CHECK(pr_wire_check(buffer, packet.used, &header));
	CHECK(header.verb == PR_ARM && header.tag == 5 && header.body_bytes == 20);
	CHECK(pr_wire_find(buffer, packet.used, PR_ITEM_TEXT, &item));
	CHECK(pr_wire_text(&item, text, sizeof(text)) && !strcmp(text, "abc"));
	CHECK(!pr_wire_text(&item, text, 3));
	CHECK(pr_wire_find(buffer, packet.used, PR_ITEM_IMAGES, &item) && item.bytes == 0);
	CHECK(!pr_wire_find(buffer, packet.used, PR_ITEM_MAP, &item));
	for (size_t bytes = 0; bytes < packet.used; bytes++)
		CHECK(!pr_wire_check(buffer, bytes, &header));
	CHECK(!pr_wire_add(&packet, PR_ITEM_TEXT, buffer, sizeof(buffer)));
}

static uint32_t random_state = 1;

static uint32_t next_random(void)
{
	random_state = random_state * 1664525u + 1013904223u;
	return random_state >> 8;
}

static pid_t itself(pid_t pid, void *context)
{
	(void)context;
	return pid == 3 ? -1 : pid + 1;
}

/* Each parser over damaged input in memory of exactly its size; the sanitizers judge. */
static void nothing_reads_beyond(void)
{
	static const char seed[] =
		"{\"linux\":{\"namespaces\":[{\"type\":\"pid\",\"path\":\"/proc/12/ns/pid\"},"
		"{\"type\":\"x\"}]},\"annotations\":{\"io.kubernetes.cri.container-type\":"
		"\"container\",\"a\":\"\\u00e9\"},\"process\":{\"terminal\":true}}";
	static struct pr_settings settings;

	for (int round = 0; round < 20000; round++) {
		size_t bytes = 1 + next_random() % sizeof(seed);
		char *copy = malloc(bytes);
		struct pr_bundle bundle;
		struct pr_header header;
		struct pr_criu_answer answer;
		size_t made;
		int failed;

		CHECK(copy);
		memcpy(copy, seed, bytes);
		if (round % 4 == 0 && bytes > 24) {
			struct pr_packet packet;
			pr_wire_start(&packet, (uint8_t *)copy, bytes, PR_ARM, 1, 0, 0);
			header.body_bytes = (uint32_t)(bytes - 24);
			memcpy(copy + 20, &header.body_bytes, 4);
		}
		for (uint32_t damage = next_random() % 4; damage > 0; damage--)
			copy[next_random() % bytes] = (char)next_random();
		pr_bundle_judge(copy, bytes, &settings, &bundle);
		free(pr_bundle_retarget(copy, bytes, itself, NULL, &made, &failed));
		pr_wire_check((const uint8_t *)copy, bytes, &header);
		pr_criu_parse((const uint8_t *)copy, bytes, &answer);
		free(copy);
	}
}

int main(void)
{
	json_takes_what_is_json();
	json_is_not_taken_too_deep();
	json_values_are_found_and_decoded();
	a_string_with_nul_is_none();
	create_as_containerd_calls_it();
	switches_take_no_value();
	force_of_delete();
	short_force_of_delete();
	another_programs_words_are_not_ours();
	kill_with_a_signal();
	nothing_at_all();
	settings_lines();
	stat_lines();
	criu_answers();
	packets();
	nothing_reads_beyond();
	return 0;
}
