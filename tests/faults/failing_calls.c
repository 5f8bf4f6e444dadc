/* A library for LD_PRELOAD: counts the system calls on an archive's files and sockets, and lets a chosen one fail.
 *
 * A call is counted by its kind (open, write, fsync, …) and the class of its file (run, manifest, zip, …); the class
 * follows from the path below the directory that `fault_watch` names, or from the port of a socket. Calls on all other
 * files pass. `fault_arm` chooses the call that fails. `fault_process.py` is the other side, and uses the same names.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum kind {
    OPEN, CREATE, READ, WRITE, PWRITE, FSYNC, SYNCFS, RENAME, EXCHANGE, UNLINK, RMDIR, MKDIR, LINK, FLOCK, FCNTL,
    FTRUNCATE, LIST, CLOSE, SEND, RECV, CONNECT, KINDS
};

enum class {
    NONE, RUN, MANIFEST, STATE, PRUNED, ZIP, LOCK, JOURNAL, FOLDER, EXPORT, OTHER, HTTP, DATABASE, CLASSES
};

#define MAX_FD 65536
#define SHORT (-1) /* instead of an errno: half of the bytes are transferred */

static char watched[PATH_MAX];
static size_t watched_length;
static int database_port;
static unsigned char class_of[MAX_FD];
static long counts[KINDS][CLASSES];
static struct { int kind, class, error, stays; long at; } fault = {-1, 0, 0, 0, 0};
static long struck;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }
#define REAL(type, name) \
    static type (*call)(); \
    if (!call) call = (type(*)())real(name)

void fault_watch(const char *directory, int port)
{
    snprintf(watched, sizeof watched, "%s", directory);
    watched_length = strlen(watched);
    database_port = port;
}

/* Lets the call number `at` (from 1) fail with `error`, and all later ones of its kind and class if `stays`. */
void fault_arm(int kind, int class, long at, int error, int stays)
{
    memset(counts, 0, sizeof counts);
    struck = 0;
    fault.class = class, fault.at = at, fault.error = error, fault.stays = stays;
    fault.kind = kind;
}

long fault_count(int kind, int class) { return counts[kind][class]; }
long fault_struck(void) { return struck; }

static int ends(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && !strcmp(text + length - tail, end);
}

static int classify(const char *path)
{
    if (!watched_length || strncmp(path, watched, watched_length) || (path[watched_length] && path[watched_length] != '/'))
        return NONE;
    const char *name = strrchr(path, '/') + 1;
    const char *below = path + watched_length;
    if (strstr(name, "journal.sqlite")) return JOURNAL;
    if (ends(name, ".lock")) return LOCK;
    if (strstr(name, ".state.json")) return STATE;
    if (strstr(name, "_summary.json") || strstr(name, "_sha256sums.txt")) return strstr(below, ".pruned") ? PRUNED : MANIFEST;
    if (strstr(name, ".zip")) return ZIP;
    if (ends(name, ".json") && !strncmp(below, "/data", 5)) return RUN;
    if (strstr(below, ".pruned")) return PRUNED;
    if (!strncmp(below, "/export", 7)) return EXPORT;
    if (!strncmp(below, "/data", 5) || !strncmp(below, "/archives", 9)) return FOLDER;
    return OTHER;
}

static int class_at(int directory, const char *path)
{
    char full[2 * PATH_MAX], link[64];
    if (!watched_length || !path) return NONE;
    if (path[0] == '/') return classify(path);
    ssize_t length;
    if (directory == AT_FDCWD) {
        if (!getcwd(full, PATH_MAX)) return NONE;
        length = strlen(full);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        length = readlink(link, full, PATH_MAX);
        if (length < 0) return NONE;
    }
    snprintf(full + length, sizeof full - length, "/%s", path);
    return classify(full);
}

static int class_fd(int fd) { return fd >= 0 && fd < MAX_FD ? class_of[fd] : NONE; }

/* Counts a call; returns 0, an errno, or SHORT. */
static int strikes(int kind, int class)
{
    if (class == NONE) return 0;
    long number = __atomic_add_fetch(&counts[kind][class], 1, __ATOMIC_SEQ_CST);
    if (fault.kind != kind || fault.class != class) return 0;
    if (number != fault.at && !(fault.stays && number > fault.at)) return 0;
    __atomic_add_fetch(&struck, 1, __ATOMIC_SEQ_CST);
    return fault.error;
}

/* The same for a descriptor. A socket that failed is closed in both directions, as after a reset of the connection. */
static int strikes_fd(int kind, int fd)
{
    int class = class_fd(fd), error = strikes(kind, class);
    if (error > 0 && (class == HTTP || class == DATABASE)) shutdown(fd, SHUT_RDWR);
    return error;
}

#define FAIL_IF(error, failed) \
    do { \
        int error_ = (error); \
        if (error_) { errno = error_ == SHORT ? EIO : error_; return failed; } \
    } while (0)
#define FAIL_OR(kind, class, failed) FAIL_IF(strikes(kind, class), failed)

/* ---- opening and closing ---------------------------------------------------------------------------------------- */

static int opened(int fd, int class)
{
    if (fd >= 0 && fd < MAX_FD) class_of[fd] = class;
    return fd;
}

#define OPENAT(name) \
    int name(int directory, const char *path, int flags, ...) \
    { \
        REAL(int, #name); \
        va_list list; \
        va_start(list, flags); \
        int mode = va_arg(list, int); \
        va_end(list); \
        int class = class_at(directory, path); \
        FAIL_OR(flags & (O_CREAT | O_WRONLY | O_RDWR) ? CREATE : OPEN, class, -1); \
        return opened(call(directory, path, flags, mode), class); \
    }
OPENAT(openat)
OPENAT(openat64)

#define OPEN_(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(int, #name); \
        va_list list; \
        va_start(list, flags); \
        int mode = va_arg(list, int); \
        va_end(list); \
        int class = class_at(AT_FDCWD, path); \
        FAIL_OR(flags & (O_CREAT | O_WRONLY | O_RDWR) ? CREATE : OPEN, class, -1); \
        return opened(call(path, flags, mode), class); \
    }
OPEN_(open)
OPEN_(open64)

int close(int fd)
{
    REAL(int, "close");
    int class = class_fd(fd), error = class == HTTP || class == DATABASE ? 0 : strikes(CLOSE, class);
    opened(fd, NONE);
    int result = call(fd); /* it is closed in any case, as Linux does */
    FAIL_IF(error, -1);
    return result;
}

#define DUP(name) \
    int name(int fd) \
    { \
        REAL(int, #name); \
        return opened(call(fd), class_fd(fd)); \
    }
DUP(dup)

DIR *opendir(const char *path)
{
    REAL(DIR *, "opendir");
    FAIL_OR(LIST, class_at(AT_FDCWD, path), NULL);
    return call(path);
}

DIR *fdopendir(int fd)
{
    REAL(DIR *, "fdopendir");
    FAIL_IF(strikes_fd(LIST, fd), NULL);
    return call(fd);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

#define BYTES(type, name, kind, parameters, arguments, short_arguments) \
    type name parameters \
    { \
        REAL(type, #name); \
        int error = strikes_fd(kind, fd); \
        if (error == SHORT && size > 1) return call short_arguments; \
        if (error > 0) { errno = error; return -1; } \
        return call arguments; \
    }
#define HALF (size / 2)
BYTES(ssize_t, read, READ, (int fd, void *buffer, size_t size), (fd, buffer, size), (fd, buffer, HALF))
BYTES(ssize_t, pread, READ, (int fd, void *buffer, size_t size, off_t at), (fd, buffer, size, at), (fd, buffer, HALF, at))
BYTES(ssize_t, pread64, READ, (int fd, void *buffer, size_t size, off_t at), (fd, buffer, size, at), (fd, buffer, HALF, at))
BYTES(ssize_t, write, WRITE, (int fd, const void *buffer, size_t size), (fd, buffer, size), (fd, buffer, HALF))
BYTES(ssize_t, pwrite, PWRITE, (int fd, const void *buffer, size_t size, off_t at), (fd, buffer, size, at), (fd, buffer, HALF, at))
BYTES(ssize_t, pwrite64, PWRITE, (int fd, const void *buffer, size_t size, off_t at), (fd, buffer, size, at), (fd, buffer, HALF, at))
BYTES(ssize_t, recv, RECV, (int fd, void *buffer, size_t size, int flags), (fd, buffer, size, flags), (fd, buffer, HALF, flags))
BYTES(ssize_t, recvfrom, RECV, (int fd, void *buffer, size_t size, int flags, struct sockaddr *from, socklen_t *length),
      (fd, buffer, size, flags, from, length), (fd, buffer, HALF, flags, from, length))
BYTES(ssize_t, send, SEND, (int fd, const void *buffer, size_t size, int flags), (fd, buffer, size, flags), (fd, buffer, HALF, flags))
BYTES(ssize_t, sendto, SEND, (int fd, const void *buffer, size_t size, int flags, const struct sockaddr *to, socklen_t length),
      (fd, buffer, size, flags, to, length), (fd, buffer, HALF, flags, to, length))

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(ssize_t, "sendmsg");
    FAIL_IF(strikes_fd(SEND, fd), -1);
    return call(fd, message, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    REAL(ssize_t, "recvmsg");
    FAIL_IF(strikes_fd(RECV, fd), -1);
    return call(fd, message, flags);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(ssize_t, "writev");
    int class = class_fd(fd);
    FAIL_IF(strikes_fd(class == HTTP || class == DATABASE ? SEND : WRITE, fd), -1);
    return call(fd, parts, count);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size)
{
    REAL(ssize_t, "sendfile64");
    FAIL_IF(strikes_fd(WRITE, out), -1);
    return call(out, in, offset, size);
}

/* ---- everything with a descriptor ------------------------------------------------------------------------------- */

int fsync(int fd) { REAL(int, "fsync"); FAIL_IF(strikes_fd(FSYNC, fd), -1); return call(fd); }
int fdatasync(int fd) { REAL(int, "fdatasync"); FAIL_IF(strikes_fd(FSYNC, fd), -1); return call(fd); }
int syncfs(int fd) { REAL(int, "syncfs"); FAIL_IF(strikes_fd(SYNCFS, fd), -1); return call(fd); }
int flock(int fd, int how) { REAL(int, "flock"); FAIL_IF(strikes_fd(FLOCK, fd), -1); return call(fd, how); }
int ftruncate(int fd, off_t size) { REAL(int, "ftruncate"); FAIL_IF(strikes_fd(FTRUNCATE, fd), -1); return call(fd, size); }
int ftruncate64(int fd, off64_t size) { REAL(int, "ftruncate64"); FAIL_IF(strikes_fd(FTRUNCATE, fd), -1); return call(fd, size); }

#define FCNTL_(name) \
    int name(int fd, int command, ...) \
    { \
        REAL(int, #name); \
        va_list list; \
        va_start(list, command); \
        void *argument = va_arg(list, void *); \
        va_end(list); \
        if (command == F_SETLK || command == F_SETLKW) FAIL_IF(strikes_fd(FCNTL, fd), -1); \
        if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) return opened(call(fd, command, argument), class_fd(fd)); \
        return call(fd, command, argument); \
    }
FCNTL_(fcntl)
FCNTL_(fcntl64)

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    REAL(int, "connect");
    int class = NONE, port = -1;
    if (watched_length && address->sa_family == AF_INET) port = ntohs(((const struct sockaddr_in *)address)->sin_port);
    if (watched_length && address->sa_family == AF_INET6) port = ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
    if (port > 0) class = port == database_port ? DATABASE : HTTP;
    if (watched_length && address->sa_family == AF_UNIX && strstr(((const struct sockaddr_un *)address)->sun_path, ".s.PGSQL."))
        class = DATABASE;
    FAIL_OR(CONNECT, class, -1);
    opened(fd, class);
    return call(fd, address, length);
}

/* ---- everything with paths -------------------------------------------------------------------------------------- */

static int class_pair(int from_directory, const char *from, int to_directory, const char *to)
{
    int class = class_at(from_directory, from);
    return class == NONE ? class_at(to_directory, to) : class;
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename");
    FAIL_OR(RENAME, class_pair(AT_FDCWD, from, AT_FDCWD, to), -1);
    return call(from, to);
}

int renameat(int in, const char *from, int out, const char *to)
{
    REAL(int, "renameat");
    FAIL_OR(RENAME, class_pair(in, from, out, to), -1);
    return call(in, from, out, to);
}

int renameat2(int in, const char *from, int out, const char *to, unsigned flags)
{
    REAL(int, "renameat2");
    FAIL_OR(flags ? EXCHANGE : RENAME, class_pair(in, from, out, to), -1);
    return call(in, from, out, to, flags);
}

int link(const char *from, const char *to)
{
    REAL(int, "link");
    FAIL_OR(LINK, class_pair(AT_FDCWD, from, AT_FDCWD, to), -1);
    return call(from, to);
}

int linkat(int in, const char *from, int out, const char *to, int flags)
{
    REAL(int, "linkat");
    FAIL_OR(LINK, class_pair(in, from, out, to), -1);
    return call(in, from, out, to, flags);
}

int unlink(const char *path) { REAL(int, "unlink"); FAIL_OR(UNLINK, class_at(AT_FDCWD, path), -1); return call(path); }
int rmdir(const char *path) { REAL(int, "rmdir"); FAIL_OR(RMDIR, class_at(AT_FDCWD, path), -1); return call(path); }

int unlinkat(int directory, const char *path, int flags)
{
    REAL(int, "unlinkat");
    FAIL_OR(flags & AT_REMOVEDIR ? RMDIR : UNLINK, class_at(directory, path), -1);
    return call(directory, path, flags);
}

int mkdir(const char *path, mode_t mode) { REAL(int, "mkdir"); FAIL_OR(MKDIR, class_at(AT_FDCWD, path), -1); return call(path, mode); }

int mkdirat(int directory, const char *path, mode_t mode)
{
    REAL(int, "mkdirat");
    FAIL_OR(MKDIR, class_at(directory, path), -1);
    return call(directory, path, mode);
}
