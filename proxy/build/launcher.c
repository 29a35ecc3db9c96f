/*
 * The launcher of the single file: unpacks its content once, then executes the gateway.
 *
 * The file holds an index and one compressed stream. They are unpacked into DIR/unpacked-KEY, where KEY is the hash of the content, so a
 * start that finds that directory complete unpacks nothing. Then this process becomes the gateway (execve, no fork): the process id, the
 * parent, signals, LISTEN_PID and NotifyAccess=main of systemd are those of an installed program.
 *
 * The launcher is linked statically and unpacks glibc's loader too: the system's libraries, if there are any, are not used.
 *
 * Code is run from a directory only if nobody but root or this user could have changed its content.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <zlib.h>

#define PREFIX "unpacked-"
#define HOME PREFIX KEY
#define NEW HOME ".new"
#define DIRECTORIES_MAX 8
#define PIECE_BYTES 65536

/* INDEX: one line `MODE SIZE NAME` per file, mode in octal. PAYLOAD: the files' bytes in that order, as one zlib stream. */
__asm__(".section .rodata\n"
        "index_begin: .incbin \"" INDEX "\"\n"
        "index_end: .byte 0\n"
        "payload_begin: .incbin \"" PAYLOAD "\"\n"
        "payload_end: .byte 0\n"
        ".text\n");
extern const char index_begin[], index_end[];
extern const unsigned char payload_begin[], payload_end[];

struct entry {
    mode_t mode;
    off_t size;
    char name[PATH_MAX];
};

struct place {
    char path[PATH_MAX];
    const char *fault; /* why it cannot be used */
};

/* Read the entry at `*cursor` and move past it; return false at the end. */
static bool next_entry(const char **cursor, struct entry *entry) {
    if (*cursor >= index_end) return false;
    char *rest;
    entry->mode = (mode_t)strtoul(*cursor, &rest, 8);
    entry->size = (off_t)strtoll(rest, &rest, 10);
    const char *name = rest + 1, *end = strchr(name, '\n');
    snprintf(entry->name, sizeof entry->name, "%.*s", (int)(end - name), name);
    *cursor = end + 1;
    return true;
}

/* Return whether every file exists in its full size. A cleaner of /tmp or a power failure may have taken some. */
static bool is_complete(int directory) {
    const char *cursor = index_begin;
    struct entry entry;
    struct stat found;
    while (next_entry(&cursor, &entry))
        if (fstatat(directory, entry.name, &found, AT_SYMLINK_NOFOLLOW) || !S_ISREG(found.st_mode) || found.st_size != entry.size)
            return false;
    return true;
}

/* Return whether nobody else can change or replace its content. In a sticky directory, such as /tmp, others cannot touch our files. */
static bool is_safe(int directory, bool sticky_will_do) {
    struct stat found;
    if (fstat(directory, &found) || (found.st_uid != 0 && found.st_uid != geteuid())) return false;
    return !(found.st_mode & (S_IWGRP | S_IWOTH)) || (sticky_will_do && (found.st_mode & S_ISVTX));
}

static bool may_execute(int directory) {
    struct statvfs found;
    return !fstatvfs(directory, &found) && !(found.f_flag & ST_NOEXEC);
}

/* Return a descriptor of the directory if it can be used, else -1 and set its fault. */
static int open_place(struct place *place) {
    int base = open(place->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (base < 0)
        place->fault = strerror(errno);
    else if (!is_safe(base, true))
        place->fault = "somebody else could change what is in it (owner, or mode)";
    else if (!may_execute(base))
        place->fault = "nothing may be executed there (noexec)";
    else
        return base;
    if (base >= 0) close(base);
    return -1;
}

/*
 * Return a descriptor of the directory that is unpacked in `base`, or -1. It holds a shared lock and stays open in the gateway, so that
 * neither a newer file (`remove_others`) nor systemd-tmpfiles, which respects such locks, removes what runs.
 */
static int open_unpacked(int base) {
    int found = openat(base, HOME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (found < 0) return -1;
    /* A descriptor above 2, even if one of 0, 1, 2 is closed, and without close-on-exec. */
    int kept = fcntl(found, F_DUPFD, 3);
    close(found);
    if (kept < 0) return -1;
    struct stat here, there;
    bool locked = !flock(kept, LOCK_SH | LOCK_NB) || errno != EWOULDBLOCK; /* a file system without locks is accepted */
    if (locked && is_safe(kept, false) && is_complete(kept) && !fstat(kept, &here) && !fstatat(base, HOME, &there, AT_SYMLINK_NOFOLLOW) &&
        here.st_ino == there.st_ino)
        return kept;
    close(kept);
    return -1;
}

static bool remove_tree(int parent, const char *name) {
    if (!unlinkat(parent, name, 0) || errno == ENOENT) return true;
    int directory = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *listing = directory < 0 ? NULL : fdopendir(directory);
    if (!listing) return false;
    for (struct dirent *each; (each = readdir(listing));)
        if (strcmp(each->d_name, ".") && strcmp(each->d_name, "..")) remove_tree(directory, each->d_name);
    closedir(listing);
    return !unlinkat(parent, name, AT_REMOVEDIR);
}

/* Remove from `base` what other versions or a killed start left, unless a program runs from it. */
static void remove_others(int base) {
    int again = openat(base, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = again < 0 ? NULL : fdopendir(again);
    if (!listing) return;
    for (struct dirent *each; (each = readdir(listing));) {
        if (strncmp(each->d_name, PREFIX, strlen(PREFIX)) || !strcmp(each->d_name, HOME)) continue;
        int other = openat(base, each->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (other < 0) continue;
        if (!flock(other, LOCK_EX | LOCK_NB)) remove_tree(base, each->d_name);
        close(other);
    }
    closedir(listing);
}

static bool make_parents(int directory, const char *name) {
    char path[PATH_MAX + 2];
    snprintf(path, sizeof path, "%s", name);
    for (char *slash = path; (slash = strchr(slash + 1, '/'));) {
        *slash = 0;
        if (mkdirat(directory, path, 0755) && errno != EEXIST) return false;
        *slash = '/';
    }
    return true;
}

static bool write_all(int file, const unsigned char *bytes, size_t count) {
    while (count) {
        ssize_t written = write(file, bytes, count);
        if (written < 0 && errno != EINTR) return false;
        if (written > 0) bytes += written, count -= (size_t)written;
    }
    return true;
}

static bool inflate_file(z_stream *stream, int file, off_t size) {
    static unsigned char piece[PIECE_BYTES];
    while (size > 0) {
        stream->next_out = piece;
        stream->avail_out = size < PIECE_BYTES ? (uInt)size : PIECE_BYTES;
        int state = inflate(stream, Z_NO_FLUSH);
        size_t got = (size_t)(stream->next_out - piece);
        if ((state != Z_OK && state != Z_STREAM_END) || !got) return errno = EBADMSG, false;
        if (!write_all(file, piece, got)) return false;
        size -= (off_t)got;
    }
    return true;
}

static bool unpack_into(int directory) {
    z_stream stream = {.next_in = (Bytef *)payload_begin, .avail_in = (uInt)(payload_end - payload_begin)};
    if (inflateInit(&stream) != Z_OK) return errno = ENOMEM, false;
    const char *cursor = index_begin;
    struct entry entry;
    bool done = true;
    while (done && next_entry(&cursor, &entry)) {
        int file = -1;
        done = make_parents(directory, entry.name) &&
               (file = openat(directory, entry.name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)) >= 0 &&
               inflate_file(&stream, file, entry.size) && !fchmod(file, entry.mode);
        if (file >= 0 && close(file)) done = false;
    }
    inflateEnd(&stream);
    return done;
}

/* Unpack beside the final name and rename: a directory of that name is complete, even after a kill -9. */
static bool unpack_new(int base) {
    remove_tree(base, NEW);
    if (mkdirat(base, NEW, 0755)) return false;
    int directory = openat(base, NEW, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool done = directory >= 0 && unpack_into(directory) && !syncfs(directory) && remove_tree(base, HOME) && !renameat(base, NEW, base, HOME);
    int fault = errno;
    if (directory >= 0) close(directory);
    if (!done) remove_tree(base, NEW);
    errno = fault;
    return done;
}

/* Unpack in this place, one process at a time. Return a descriptor of the unpacked directory, or -1 and set the place's fault. */
static int unpack(struct place *place) {
    umask(022);
    char parents[PATH_MAX + 2];
    snprintf(parents, sizeof parents, "%s/", place->path);
    if (!make_parents(AT_FDCWD, parents)) return place->fault = strerror(errno), -1;
    int base = open_place(place);
    if (base < 0) return -1;
    int lock = openat(base, ".unpacking.lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    int found = -1;
    if (lock < 0) {
        place->fault = strerror(errno);
    } else {
        flock(lock, LOCK_EX);
        found = open_unpacked(base); /* another process may have unpacked it while this one waited */
        if (found < 0 && !unpack_new(base)) place->fault = strerror(errno);
        else if (found < 0) {
            if ((found = open_unpacked(base)) < 0) place->fault = "what was unpacked there was changed at once";
            remove_others(base);
        }
        close(lock);
    }
    close(base);
    return found;
}

static int find(struct place *place) {
    int base = open_place(place);
    if (base < 0) return -1;
    int found = open_unpacked(base);
    close(base);
    return found;
}

/* Fill in the places to look in, best first; return their number. Lists by systemd are separated by colons: the first entry is used. */
static int list_places(struct place *places) {
    const char *named = getenv("LLM_PROXY_UNPACK_DIR"), *cache = getenv("CACHE_DIRECTORY"), *state = getenv("STATE_DIRECTORY");
    const char *user_cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME"), *temporary = getenv("TMPDIR");
    int count = 0;
    /* Root's directory, for all users, comes first: a service should not be able to write the code that it runs. */
#define ADD(...) snprintf(places[count++].path, PATH_MAX, __VA_ARGS__)
    if (named && *named) return ADD("%s", named), count;
    ADD("/usr/local/lib/llm-proxy");
    if (cache && *cache) ADD("%.*s", (int)strcspn(cache, ":"), cache);
    if (state && *state) ADD("%.*s", (int)strcspn(state, ":"), state);
    if (user_cache && *user_cache == '/') ADD("%s/llm-proxy", user_cache);
    else if (home && *home == '/' && home[1]) ADD("%s/.cache/llm-proxy", home);
    ADD("%s/llm-proxy-%u", temporary && *temporary == '/' ? temporary : "/tmp", (unsigned)geteuid());
#undef ADD
    return count;
}

/* Execute the gateway in this process. Returns only on failure, with errno set. */
static void become(const char *place, int found, int argc, char **argv) {
    static char base[PATH_MAX], directory[PATH_MAX + sizeof HOME];
    struct stat named, opened;
    if (!realpath(place, base)) return;
    snprintf(directory, sizeof directory, "%s/" HOME, base);
    /* A symbolic link in the path may have changed since: run only the directory that was checked. */
    if (stat(directory, &named) || fstat(found, &opened)) return;
    if (named.st_ino != opened.st_ino || named.st_dev != opened.st_dev) {
        errno = ESTALE;
        return;
    }
    static char loader[PATH_MAX + 64], libraries[PATH_MAX + 64], python[PATH_MAX + 64];
    snprintf(loader, sizeof loader, "%s/llm-proxy", directory);
    snprintf(libraries, sizeof libraries, "%s/lib", directory);
    snprintf(python, sizeof python, "%s/bin/python", directory);
    char *before[] = {"llm-proxy", "--library-path", libraries, python, "-I", "-S", "-X", "utf8", "-m", "proxy.build.entry"};
    size_t words = sizeof before / sizeof *before;
    char **all = calloc(words + (size_t)argc + 1, sizeof *all);
    if (!all) return;
    memcpy(all, before, sizeof before);
    for (int each = 1; each < argc; each++) all[words++] = argv[each];
    execv(loader, all);
}

int main(int argc, char **argv) {
    static struct place places[DIRECTORIES_MAX];
    mode_t mask = umask(022);
    umask(mask);
    int count = list_places(places), found = -1, at = 0;
    for (int each = 0; each < count && found < 0; each++) found = find(&places[at = each]);
    for (int each = 0; each < count && found < 0; each++) found = unpack(&places[at = each]);
    umask(mask);
    if (found >= 0) {
        become(places[at].path, found, argc, argv);
        fprintf(stderr, "llm-proxy: what is unpacked in %s cannot be started: %s\n", places[at].path, strerror(errno));
        return 1;
    }
    fputs("llm-proxy: there is no place to unpack this file to, which is done once:\n", stderr);
    for (int each = 0; each < count; each++) fprintf(stderr, "  %s: %s\n", places[each].path, places[each].fault);
    fputs("Run it once as root (`llm-proxy --version`), or set LLM_PROXY_UNPACK_DIR to a directory of yours.\n", stderr);
    return 1;
}
