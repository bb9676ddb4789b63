/* io_shim: a library for LD_PRELOAD that makes I/O calls on paths below one folder fail, fall short, be interrupted or end in SIGKILL.

   The calls below the folder are counted from 1, over all threads of the process; what happens at the k-th is the rule's. A process is armed by
   io_shim_arm (found with dlsym) or, before main, by the environment:

     IO_SHIM_FOLDER   paths that begin with this count (the real path, without links)
     IO_SHIM_AT       k; 0 or absent: only count
     IO_SHIM_ACTION   a number of enum io_shim_action
     IO_SHIM_ERROR    errno for io_shim_error
     IO_SHIM_PERSIST  1: the k-th call and all that follow
     IO_SHIM_PART     only calls whose path contains this count
     IO_SHIM_RANK     only in the process whose OMPI_COMM_WORLD_RANK is this
     IO_SHIM_REPORT   a file to which "calls acted-on" is written at exit */
#ifndef IO_SHIM_H
#define IO_SHIM_H

#ifdef __cplusplus
extern "C" {
#endif

enum io_shim_call {
  io_shim_open = 1 << 0,
  io_shim_write = 1 << 1,
  io_shim_fsync = 1 << 2,
  io_shim_rename = 1 << 3,
  io_shim_truncate = 1 << 4, /* ftruncate, fallocate */
  io_shim_mkdir = 1 << 5,
  io_shim_unlink = 1 << 6, /* unlink, unlinkat, rmdir */
  io_shim_close = 1 << 7,
  io_shim_all = (1 << 8) - 1,
  /* The calls that POSIX or a network file system may interrupt. */
  io_shim_interruptible = io_shim_open | io_shim_write | io_shim_fsync | io_shim_rename | io_shim_truncate
};

enum io_shim_action {
  io_shim_count = 0,
  io_shim_error = 1,       /* fails with `error`, having done nothing (close closes) */
  io_shim_short = 2,       /* a write of half the bytes; other calls are left alone */
  io_shim_kill_before = 3, /* SIGKILL to the victim, then the call */
  io_shim_kill_half = 4,   /* half of a write, then SIGKILL */
  io_shim_kill_after = 5,  /* the call, then SIGKILL */
  io_shim_delay = 6        /* `error` milliseconds, then the call */
};

struct io_shim_rule {
  char folder[512];
  char part[128];
  int calls;   /* which of enum io_shim_call count */
  long at;     /* k */
  int action, error, persist;
  int no_exchange; /* every renameat2 fails with EINVAL, as on NFS, and is not counted */
  int victim;  /* process to kill; 0: this one */
  char trace[512]; /* a file to which "pwrite /a/b" is added before each counted call, by all processes that name it; "": none */
};

void io_shim_arm(const struct io_shim_rule* rule);
long io_shim_calls(void);         /* counted since it was armed */
const char* io_shim_acted(void);  /* "pwrite /a/b" of the first call acted on; "" = none */

#ifdef __cplusplus
}
#endif
#endif
