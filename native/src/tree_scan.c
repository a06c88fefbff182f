// SPDX-License-Identifier: Apache-2.0
/* Owns the walk over a tree of files; reads metadata alone. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cleanup.h"
#include "error.h"
#include "podferry/tree.h"
#include "tree_order.h"

#define NAMES_BYTES (32 << 10)

struct kernel_dirent64 {
	uint64_t inode;
	int64_t offset;
	uint16_t bytes;
	uint8_t kind;
	char name[];
};

struct walk {
	struct pf_tree_scan *out;
	size_t room;
	uint32_t flags;
	uint32_t device_major, device_minor;
	uint64_t entries_max;
	const char *exclude;
	size_t exclude_bytes;
	char path[PF_TREE_PATH_BYTES_MAX];
	size_t path_bytes;
	unsigned int depth;
	struct pf_error *err;
	/* Of a rescan: the earlier records, how far they are used up, and the files with several
	 * names that were looked at, whose other names may be in records that were taken over. */
	const uint8_t *old;
	size_t old_at, old_bytes;
	int64_t settled_before_ns;
	struct pf_tree_record *relinked;
	size_t relinked_count, relinked_room;
};

/* The names of one directory: each with its NUL, and pointers to them in order. */
struct names {
	char *bytes;
	size_t used, room;
	const char **sorted;
	size_t count;
};

static void names_cleanup(struct names *names)
{
	free(names->bytes);
	free(names->sorted);
}

static int by_bytes(const void *left, const void *right)
{
	/* strcmp compares as unsigned bytes, which is the order of memcmp. */
	return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static int keep_name(struct names *names, const char *name)
{
	size_t bytes = strlen(name) + 1;

	if (names->used + bytes > names->room) {
		size_t room = names->room ? names->room * 2 : NAMES_BYTES;
		char *grown = realloc(names->bytes, room);

		if (!grown)
			return -ENOMEM;
		names->bytes = grown;
		names->room = room;
	}
	memcpy(names->bytes + names->used, name, bytes);
	names->used += bytes;
	names->count++;
	return 0;
}

static int read_names(int dir, struct names *names, struct pf_error *err)
{
	char buffer[NAMES_BYTES] __attribute__((aligned(8)));
	const char *at;

	for (;;) {
		long got = syscall(SYS_getdents64, dir, buffer, sizeof(buffer));

		if (got < 0 && errno == ENOENT)
			break; /* the directory was removed */
		if (got < 0)
			return pf_fail_errno(err, "reading a directory");
		if (got == 0)
			break;
		for (long offset = 0; offset < got;) {
			const struct kernel_dirent64 *one = (void *)(buffer + offset);

			offset += one->bytes;
			if (strcmp(one->name, ".") == 0 || strcmp(one->name, "..") == 0)
				continue;
			if (keep_name(names, one->name))
				return pf_fail(err, -ENOMEM, "no memory for a directory's names");
		}
	}
	if (!names->count)
		return 0;
	names->sorted = malloc(names->count * sizeof(*names->sorted));
	if (!names->sorted)
		return pf_fail(err, -ENOMEM, "no memory for a directory's names");
	at = names->bytes;
	for (size_t i = 0; i < names->count; i++) {
		names->sorted[i] = at;
		at += strlen(at) + 1;
	}
	qsort(names->sorted, names->count, sizeof(*names->sorted), by_bytes);
	return 0;
}

static bool is_excluded(const struct walk *walk)
{
	const char *at = walk->exclude, *end = walk->exclude + walk->exclude_bytes;

	while (at < end) {
		size_t bytes = strnlen(at, (size_t)(end - at));

		if (bytes == walk->path_bytes && memcmp(at, walk->path, bytes) == 0)
			return true;
		at += bytes + 1;
	}
	return false;
}

static int emit(struct walk *walk, const struct pf_tree_record *record)
{
	struct pf_tree_scan *out = walk->out;
	size_t bytes = sizeof(*record) + walk->path_bytes;

	if (out->entries == walk->entries_max)
		return pf_fail(walk->err, -E2BIG, "more than %llu files",
			       (unsigned long long)walk->entries_max);
	if (out->bytes + bytes > walk->room) {
		size_t room = walk->room ? walk->room * 2 : 1 << 20;
		uint8_t *grown = realloc(out->records, room);

		if (!grown)
			return pf_fail(walk->err, -ENOMEM, "no memory for the records of a tree");
		out->records = grown;
		walk->room = room;
	}
	/* Records lie unaligned, one behind the other. */
	memcpy(out->records + out->bytes, record, sizeof(*record));
	memcpy(out->records + out->bytes + sizeof(*record), walk->path, walk->path_bytes);
	memcpy(out->records + out->bytes, &(uint32_t){(uint32_t)bytes}, sizeof(uint32_t));
	out->bytes += bytes;
	out->entries++;
	return 0;
}

static void fill(struct pf_tree_record *record, const struct statx *seen)
{
	bool is_directory = S_ISDIR(seen->stx_mode);

	*record = (struct pf_tree_record){
		.mode = seen->stx_mode,
		.uid = seen->stx_uid,
		.gid = seen->stx_gid,
		.links = is_directory ? 0 : seen->stx_nlink,
		.inode = seen->stx_ino,
		.size = is_directory ? 0 : seen->stx_size,
		.mtime_s = seen->stx_mtime.tv_sec,
		.mtime_ns = seen->stx_mtime.tv_nsec,
		.ctime_s = seen->stx_ctime.tv_sec,
		.ctime_ns = seen->stx_ctime.tv_nsec,
	};
	if (S_ISCHR(seen->stx_mode) || S_ISBLK(seen->stx_mode))
		record->device = (uint64_t)seen->stx_rdev_major << 32 | seen->stx_rdev_minor;
}

/* The marks that overlayfs leaves on a directory (Documentation/filesystems/overlayfs.rst). With
 * the value "x" the directory is not opaque but may hold whiteouts that are files. */
static uint32_t directory_marks(int dir, bool *has_file_whiteouts)
{
	char value[2] = "";
	uint32_t flags = 0;

	if (fgetxattr(dir, "trusted.overlay.opaque", value, sizeof(value)) == 1) {
		if (value[0] == 'y')
			flags |= PF_TREE_OPAQUE;
		*has_file_whiteouts = value[0] == 'x';
	}
	if (fgetxattr(dir, "trusted.overlay.redirect", NULL, 0) >= 0)
		flags |= PF_TREE_REDIRECT;
	return flags;
}

static bool is_file_whiteout(int dir, const char *name)
{
	PF_AUTO_FD int fd =
		openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);

	return fd >= 0 && fgetxattr(fd, "trusted.overlay.whiteout", NULL, 0) >= 0;
}

/* The earlier record at the cursor; false at the end. They are our own, or were checked. */
static bool earlier(const struct walk *walk, struct pf_tree_record *record, const uint8_t **path,
		    size_t *path_bytes)
{
	if (walk->old_bytes - walk->old_at < sizeof(*record))
		return false;
	memcpy(record, walk->old + walk->old_at, sizeof(*record));
	if (record->bytes < sizeof(*record) || record->bytes > walk->old_bytes - walk->old_at)
		return false;
	*path = walk->old + walk->old_at + sizeof(*record);
	*path_bytes = record->bytes - sizeof(*record);
	return true;
}

/* Whether so much time had passed since a directory's last change that another one would show. */
static bool is_settled(const struct walk *walk, const struct pf_tree_record *record)
{
	int64_t s = walk->settled_before_ns / 1000000000, ns = walk->settled_before_ns % 1000000000;

	return record->ctime_s < s || (record->ctime_s == s && record->ctime_ns < ns);
}

/* Whether a directory's names are as they were; the cursor then stands behind its record. */
static bool has_same_names(struct walk *walk, struct pf_tree_record *record)
{
	struct pf_tree_record before;
	const uint8_t *path;
	size_t path_bytes;

	while (earlier(walk, &before, &path, &path_bytes)) {
		int order = pf_tree_path_order(path, path_bytes, (const uint8_t *)walk->path,
					       walk->path_bytes);

		if (order > 0)
			return false;
		walk->old_at += before.bytes;
		if (order < 0)
			continue;
		record->flags = before.flags;
		return is_settled(walk, record) && S_ISDIR(before.mode) &&
		       before.inode == record->inode && before.mtime_s == record->mtime_s &&
		       before.mtime_ns == record->mtime_ns && before.ctime_s == record->ctime_s &&
		       before.ctime_ns == record->ctime_ns;
	}
	return false;
}

static int walk_entry(struct walk *walk, int dir, const char *name, bool has_file_whiteouts);
static int walk_directory(struct walk *walk, int dir, bool has_file_whiteouts);

/* Takes over what is in a directory; only the directories in it are looked at. */
static int take_over(struct walk *walk, int parent, const char *name)
{
	PF_AUTO_FD int dir = -1;
	size_t own_bytes = walk->path_bytes;
	struct pf_tree_record before;
	const uint8_t *path;
	size_t path_bytes;
	int code = 0;

	while (!code && earlier(walk, &before, &path, &path_bytes)) {
		size_t at = own_bytes ? own_bytes + 1 : 0;

		if (path_bytes <= at || memcmp(path, walk->path, own_bytes) != 0 ||
		    (own_bytes && path[own_bytes] != '/'))
			break;
		if (memchr(path + at, '/', path_bytes - at)) {
			walk->old_at += before.bytes; /* below a directory that is gone */
			continue;
		}
		memcpy(walk->path, path, path_bytes);
		walk->path_bytes = path_bytes;
		if (S_ISDIR(before.mode)) {
			char own[256];

			if (path_bytes - at >= sizeof(own))
				return pf_fail(walk->err, -EINVAL, "a name is too long");
			memcpy(own, path + at, path_bytes - at);
			own[path_bytes - at] = '\0';
			if (dir < 0)
				dir = openat(parent, name,
					     O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			if (dir < 0)
				return pf_fail_errno(walk->err, "%s", name);
			code = walk_entry(walk, dir, own, false);
			/* Also where it is gone: its record is not met again. */
			if (earlier(walk, &before, &path, &path_bytes) &&
			    path_bytes == walk->path_bytes &&
			    memcmp(path, walk->path, path_bytes) == 0)
				walk->old_at += before.bytes;
		} else {
			walk->old_at += before.bytes;
			code = emit(walk, &before);
		}
		walk->path_bytes = own_bytes;
	}
	return code;
}

static int walk_into(struct walk *walk, int parent, const char *name, struct pf_tree_record *record)
{
	bool has_file_whiteouts = false, is_same = walk->old && has_same_names(walk, record);
	int code;
	PF_AUTO_FD int dir =
		is_same ? -1
			: openat(parent, name,
				 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);

	if (dir < 0 && !is_same) {
		if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
			return pf_fail_errno(walk->err, "%.*s", (int)walk->path_bytes, walk->path);
		walk->out->vanished++;
		return 0;
	}
	if (!is_same) {
		record->flags = 0;
		if (walk->flags & PF_TREE_OVERLAY)
			record->flags = directory_marks(dir, &has_file_whiteouts);
	}
	code = emit(walk, record);
	if (code)
		return code;
	if (++walk->depth > PF_TREE_DEPTH_MAX)
		return pf_fail(walk->err, -ENAMETOOLONG, "directories are nested more than %d deep",
			       PF_TREE_DEPTH_MAX);
	code = is_same ? take_over(walk, parent, name)
		       : walk_directory(walk, dir, has_file_whiteouts);
	walk->depth--;
	return code;
}

/* A file with several names that was looked at in a rescan. */
static int note_relinked(struct walk *walk, const struct pf_tree_record *record)
{
	if (!walk->old || record->links < 2)
		return 0;
	if (walk->relinked_count == walk->relinked_room) {
		size_t room = walk->relinked_room ? walk->relinked_room * 2 : 16;
		struct pf_tree_record *grown =
			realloc(walk->relinked, room * sizeof(*walk->relinked));

		if (!grown)
			return pf_fail(walk->err, -ENOMEM, "no memory for further names");
		walk->relinked = grown;
		walk->relinked_room = room;
	}
	walk->relinked[walk->relinked_count++] = *record;
	return 0;
}

/* Gives the other names of such files what the rescan saw of them. */
static void relink(struct walk *walk)
{
	struct pf_tree_record record;

	for (size_t at = 0; walk->relinked_count && at < walk->out->bytes; at += record.bytes) {
		memcpy(&record, walk->out->records + at, sizeof(record));
		for (size_t i = 0; i < walk->relinked_count; i++)
			if (record.inode && walk->relinked[i].inode == record.inode) {
				uint32_t bytes = record.bytes;

				record = walk->relinked[i];
				record.bytes = bytes;
				memcpy(walk->out->records + at, &record, sizeof(record));
			}
	}
}

static int walk_entry(struct walk *walk, int dir, const char *name, bool has_file_whiteouts)
{
	struct pf_tree_record record;
	struct statx seen;

	if (statx(dir, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &seen)) {
		if (errno != ENOENT)
			return pf_fail_errno(walk->err, "%.*s", (int)walk->path_bytes, walk->path);
		walk->out->vanished++;
		return 0;
	}
	if (seen.stx_dev_major != walk->device_major || seen.stx_dev_minor != walk->device_minor)
		return 0;
	fill(&record, &seen);
	if (S_ISDIR(seen.stx_mode))
		return walk_into(walk, dir, name, &record);
	if (walk->flags & PF_TREE_OVERLAY) {
		bool is_whiteout = S_ISCHR(seen.stx_mode) && record.device == 0;

		if (S_ISREG(seen.stx_mode) && seen.stx_size == 0 && has_file_whiteouts)
			is_whiteout = is_file_whiteout(dir, name);
		/* One inode may serve as many whiteouts: its count of links says nothing. */
		if (is_whiteout)
			record =
				(struct pf_tree_record){.flags = PF_TREE_WHITEOUT, .mode = S_IFCHR};
	}
	return note_relinked(walk, &record) ? -ENOMEM : emit(walk, &record);
}

static int walk_directory(struct walk *walk, int dir, bool has_file_whiteouts)
{
	__attribute__((cleanup(names_cleanup))) struct names names = {0};
	size_t parent_bytes = walk->path_bytes;
	int code = read_names(dir, &names, walk->err);

	for (size_t i = 0; i < names.count && !code; i++) {
		size_t bytes = strlen(names.sorted[i]);
		size_t slash = parent_bytes ? 1 : 0;

		if (parent_bytes + slash + bytes > sizeof(walk->path))
			return pf_fail(walk->err, -ENAMETOOLONG, "a path has more than %d bytes",
				       PF_TREE_PATH_BYTES_MAX);
		if (slash)
			walk->path[parent_bytes] = '/';
		memcpy(walk->path + parent_bytes + slash, names.sorted[i], bytes);
		walk->path_bytes = parent_bytes + slash + bytes;
		if (!is_excluded(walk))
			code = walk_entry(walk, dir, names.sorted[i], has_file_whiteouts);
		walk->path_bytes = parent_bytes;
	}
	return code;
}

int pf_tree_scan(int root_fd, uint32_t flags, const char *exclude, size_t exclude_bytes,
		 uint64_t entries_max, const uint8_t *old, size_t old_bytes,
		 int64_t settled_before_ns, struct pf_tree_scan *out, struct pf_error *err)
{
	PF_AUTO_FREE struct walk *walk = calloc(1, sizeof(*walk));
	/* Of our own, so that the caller's position in the directory does not matter. */
	PF_AUTO_FD int dir = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct pf_tree_record record;
	struct statx root;
	int code;

	*out = (struct pf_tree_scan){0};
	if (!walk)
		return pf_fail(err, -ENOMEM, "no memory for a walk");
	if (dir < 0 || statx(dir, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &root))
		return pf_fail_errno(err, "the root of a tree");
	walk->out = out;
	walk->flags = flags;
	walk->device_major = root.stx_dev_major;
	walk->device_minor = root.stx_dev_minor;
	walk->entries_max = entries_max;
	walk->exclude = exclude;
	walk->exclude_bytes = exclude_bytes;
	walk->err = err;
	walk->old = old;
	walk->old_bytes = old_bytes;
	walk->settled_before_ns = settled_before_ns;
	out->file_system = (uint64_t)root.stx_dev_major << 32 | root.stx_dev_minor;
	fill(&record, &root);
	code = walk_into(walk, dir, ".", &record);
	relink(walk);
	free(walk->relinked);
	if (code)
		pf_tree_scan_free(out);
	return code;
}

void pf_tree_scan_free(struct pf_tree_scan *scan)
{
	free(scan->records);
	*scan = (struct pf_tree_scan){0};
}
