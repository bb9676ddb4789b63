/* See io_shim.h. The library must not use what it replaces: it calls the next definition of each, found once. */
#define _GNU_SOURCE
#include "io_shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#undef open
#undef openat
#undef pwrite
#undef ftruncate
#undef fallocate

static struct io_shim_rule rule;
static atomic_int armed;
static atomic_long counted;
static atomic_int acted;
static char acted_text[800];

#define NEXT(name)                                        \
  static __typeof__(name)* next;                          \
  if (!next) next = (__typeof__(name)*)dlsym(RTLD_NEXT, #name)

void io_shim_arm(const struct io_shim_rule* r) {
  atomic_store(&armed, 0);
  rule = *r;
  atomic_store(&counted, 0);
  atomic_store(&acted, 0);
  acted_text[0] = 0;
  if (rule.folder[0]) atomic_store(&armed, 1);
}
long io_shim_calls(void) { return atomic_load(&counted); }
const char* io_shim_acted(void) { return atomic_load(&acted) ? acted_text : ""; }

static long number(const char* name) {
  const char* text = getenv(name);
  return text ? atol(text) : 0;
}

__attribute__((constructor)) static void from_environment(void) {
  const char *folder = getenv("IO_SHIM_FOLDER"), *rank = getenv("IO_SHIM_RANK"), *mine = getenv("OMPI_COMM_WORLD_RANK"), *part = getenv("IO_SHIM_PART");
  if (!folder || (rank && (!mine || strcmp(rank, mine) != 0))) return;
  struct io_shim_rule r;
  memset(&r, 0, sizeof r);
  snprintf(r.folder, sizeof r.folder, "%s", folder);
  if (part) snprintf(r.part, sizeof r.part, "%s", part);
  r.calls = io_shim_all;
  r.at = number("IO_SHIM_AT");
  r.action = (int)number("IO_SHIM_ACTION");
  r.error = (int)number("IO_SHIM_ERROR");
  r.persist = (int)number("IO_SHIM_PERSIST");
  io_shim_arm(&r);
}

__attribute__((destructor)) static void report(void) {
  const char* path = getenv("IO_SHIM_REPORT");
  if (!path || !atomic_exchange(&armed, 0)) return;
  FILE* f = fopen(path, "w");
  if (!f) return;
  fprintf(f, "%ld %s\n", atomic_load(&counted), io_shim_acted());
  fclose(f);
}

/* One append for each line, so that the lines of several processes do not mix; by system calls of its own, which nothing counts. */
static void trace(const char* name, const char* path) {
  char line[1200];
  const int n = snprintf(line, sizeof line, "%s %s\n", name, path);
  const int error = errno, fd = (int)syscall(SYS_openat, AT_FDCWD, rule.trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd >= 0) {
    if (syscall(SYS_write, fd, line, (size_t)n) != n) abort();
    syscall(SYS_close, fd);
  }
  errno = error;
}

/* What the caller is to do with this call. */
static int decide(int call, const char* name, const char* path) {
  if (!path || !atomic_load(&armed) || !(rule.calls & call)) return io_shim_count;
  if (strncmp(path, rule.folder, strlen(rule.folder)) != 0) return io_shim_count;
  if (rule.part[0] && !strstr(path, rule.part)) return io_shim_count;
  const long k = atomic_fetch_add(&counted, 1) + 1;
  if (rule.trace[0]) trace(name, path);
  if (rule.at == 0 || (rule.persist ? k < rule.at : k != rule.at)) return io_shim_count;
  if (!atomic_exchange(&acted, 1)) snprintf(acted_text, sizeof acted_text, "%s %s", name, path);
  return rule.action;
}

static void kill_victim(void) {
  const pid_t victim = rule.victim ? rule.victim : getpid();
  kill(victim, SIGKILL);
  if (victim != getpid()) usleep(2000); /* it has to be gone before this one goes on */
}

/* Before a call that cannot fall short: 1 = it fails with errno. */
static int fails(int what) {
  if (what == io_shim_kill_before || what == io_shim_kill_half) kill_victim();
  if (what == io_shim_delay) usleep((useconds_t)rule.error * 1000);
  if (what == io_shim_error) errno = rule.error;
  return what == io_shim_error;
}
static void afterwards(int what) {
  if (what == io_shim_kill_after) {
    const int error = errno;
    kill_victim();
    errno = error;
  }
}

static const char* path_of_fd(int fd, char* buffer, size_t size) {
  if (!atomic_load(&armed)) return NULL;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const int error = errno;
  const ssize_t n = readlink(link, buffer, size - 1);
  errno = error;
  if (n <= 0) return NULL;
  buffer[n] = 0;
  return buffer;
}

/* A path relative to a folder's descriptor. */
static const char* path_at(int dir, const char* path, char* buffer, size_t size) {
  if (!atomic_load(&armed)) return NULL;
  if (path[0] == '/' || dir == AT_FDCWD) return path;
  char folder[512];
  if (!path_of_fd(dir, folder, sizeof folder)) return NULL;
  snprintf(buffer, size, "%s/%s", folder, path);
  return buffer;
}

static int open_mode(int flags, va_list list) { return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(list, int) : 0; }

#define OPEN(name)                                                             \
  int name(const char* path, int flags, ...) {                                 \
    va_list list;                                                              \
    va_start(list, flags);                                                     \
    const int mode = open_mode(flags, list);                                   \
    va_end(list);                                                              \
    static int (*next)(const char*, int, ...);                                 \
    if (!next) next = (int (*)(const char*, int, ...))dlsym(RTLD_NEXT, #name); \
    const int what = decide(io_shim_open, "open", path);                       \
    if (fails(what)) return -1;                                                \
    const int fd = next(path, flags, mode);                                    \
    afterwards(what);                                                          \
    return fd;                                                                 \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                         \
  int name(int dir, const char* path, int flags, ...) {                                      \
    va_list list;                                                                            \
    va_start(list, flags);                                                                   \
    const int mode = open_mode(flags, list);                                                 \
    va_end(list);                                                                            \
    static int (*next)(int, const char*, int, ...);                                          \
    if (!next) next = (int (*)(int, const char*, int, ...))dlsym(RTLD_NEXT, #name);          \
    char buffer[1024];                                                                       \
    const int what = decide(io_shim_open, "openat", path_at(dir, path, buffer, sizeof buffer)); \
    if (fails(what)) return -1;                                                              \
    const int fd = next(dir, path, flags, mode);                                             \
    afterwards(what);                                                                        \
    return fd;                                                                               \
  }
OPENAT(openat)
OPENAT(openat64)

/* Bytes to write: fewer than asked for when the call is to fall short; -1: it fails. */
static ssize_t bytes_to_write(int what, size_t n) {
  if (what == io_shim_short || what == io_shim_kill_half) return n > 1 ? (ssize_t)(n / 2) : (ssize_t)n;
  return fails(what) ? -1 : (ssize_t)n;
}
static ssize_t written(int what, ssize_t result) {
  afterwards(what == io_shim_kill_half ? io_shim_kill_after : what);
  return result;
}

ssize_t write(int fd, const void* from, size_t n) {
  NEXT(write);
  char buffer[512];
  const int what = decide(io_shim_write, "write", path_of_fd(fd, buffer, sizeof buffer));
  const ssize_t count = bytes_to_write(what, n);
  return count < 0 ? -1 : written(what, next(fd, from, (size_t)count));
}

#define PWRITE(name)                                                                              \
  ssize_t name(int fd, const void* from, size_t n, off_t offset) {                                \
    NEXT(name);                                                                                   \
    char buffer[512];                                                                             \
    const int what = decide(io_shim_write, "pwrite", path_of_fd(fd, buffer, sizeof buffer));       \
    const ssize_t count = bytes_to_write(what, n);                                                \
    return count < 0 ? -1 : written(what, next(fd, from, (size_t)count, offset));                  \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

#define ON_DESCRIPTOR(name, call, parameters, arguments)                                      \
  int name parameters {                                                                       \
    NEXT(name);                                                                               \
    char buffer[512];                                                                         \
    const int what = decide(call, #name, path_of_fd(fd, buffer, sizeof buffer));               \
    if (fails(what)) return -1;                                                               \
    const int result = next arguments;                                                        \
    afterwards(what);                                                                         \
    return result;                                                                            \
  }
ON_DESCRIPTOR(fsync, io_shim_fsync, (int fd), (fd))
ON_DESCRIPTOR(fdatasync, io_shim_fsync, (int fd), (fd))
ON_DESCRIPTOR(ftruncate, io_shim_truncate, (int fd, off_t size), (fd, size))
ON_DESCRIPTOR(ftruncate64, io_shim_truncate, (int fd, off64_t size), (fd, size))
ON_DESCRIPTOR(fallocate, io_shim_truncate, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size))

int close(int fd) {
  NEXT(close);
  char buffer[512];
  const int what = decide(io_shim_close, "close", path_of_fd(fd, buffer, sizeof buffer));
  if (what == io_shim_error) next(fd); /* a close that reports an error has closed all the same */
  if (fails(what)) return -1;
  const int result = next(fd);
  afterwards(what);
  return result;
}

#define ON_PATH(name, call, parameters, arguments)        \
  int name parameters {                                   \
    NEXT(name);                                           \
    const int what = decide(call, #name, path);           \
    if (fails(what)) return -1;                           \
    const int result = next arguments;                    \
    afterwards(what);                                     \
    return result;                                        \
  }
ON_PATH(rename, io_shim_rename, (const char* path, const char* to), (path, to))
ON_PATH(mkdir, io_shim_mkdir, (const char* path, mode_t mode), (path, mode))
ON_PATH(unlink, io_shim_unlink, (const char* path), (path))
ON_PATH(rmdir, io_shim_unlink, (const char* path), (path))

#define ON_PATH_AT(name, call, parameters, arguments)                                    \
  int name parameters {                                                                  \
    NEXT(name);                                                                          \
    char buffer[1024];                                                                   \
    const int what = decide(call, #name, path_at(dir, path, buffer, sizeof buffer));     \
    if (fails(what)) return -1;                                                          \
    const int result = next arguments;                                                   \
    afterwards(what);                                                                    \
    return result;                                                                       \
  }
ON_PATH_AT(renameat, io_shim_rename, (int dir, const char* path, int to_dir, const char* to), (dir, path, to_dir, to))
ON_PATH_AT(mkdirat, io_shim_mkdir, (int dir, const char* path, mode_t mode), (dir, path, mode))
ON_PATH_AT(unlinkat, io_shim_unlink, (int dir, const char* path, int flags), (dir, path, flags))

int renameat2(int dir, const char* path, int to_dir, const char* to, unsigned flags) {
  NEXT(renameat2);
  if (atomic_load(&armed) && rule.no_exchange) {
    errno = EINVAL;
    return -1;
  }
  char buffer[1024];
  const int what = decide(io_shim_rename, "renameat2", path_at(dir, path, buffer, sizeof buffer));
  if (fails(what)) return -1;
  const int result = next(dir, path, to_dir, to, flags);
  afterwards(what);
  return result;
}
