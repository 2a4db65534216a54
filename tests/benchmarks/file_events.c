/* Traces what a process and its children change below some folders, and kills it at a chosen event.
 *
 * A seccomp filter stops the process at the system calls that change files. Symbols of libc would not do: safetensors
 * renames by a system call of its own (crate rustix), and fwrite calls write inside of libc. `watch` is called in the
 * process to trace, `trace` in its parent; see file_events.py. Linux on x86-64.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* After sys/ptrace.h, with which it shares names. */
#include <linux/ptrace.h>

enum how { BEFORE, AFTER, TORN };

/* What `trace` is to do; the same fields in file_events.py. */
struct plan {
    const char *roots; /* absolute folders, with a colon between two */
    const char *log;   /* file of events: number, kind, result, path, second path, with tabs between them */
    const char *copies; /* folder of what each changed file holds after the event; empty: none */
    const char *other; /* log of another traced process to kill, too; empty: none */
    long kill_at;      /* number of the event; 0: none */
    int how;
    int kills_itself; /* whether the traced process and its children are killed */
};

struct event {
    pid_t thread; /* 0: unused */
    long number;
    const char *kind;
    int file; /* that the event writes; -1: none */
    char path[PATH_MAX], second[PATH_MAX];
};

static struct plan plan;
static pid_t root_process;
static long events;
static FILE *event_log;
static struct event pending[256];

/* ---- in the process to trace ---- */

#define ARGUMENT(n) (offsetof(struct seccomp_data, args) + 8 * (n)) /* its low half, on a little-endian machine */
#define LOAD(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (offset))
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, (value))
#define TRACE(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (call), 0, 1), RETURN(SECCOMP_RET_TRACE)
/* Trace a call if an argument has one of these bits. */
#define TRACE_FLAGS(call, argument, bits)                                                                             \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (call), 0, 4), LOAD(ARGUMENT(argument)),                                       \
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (bits), 0, 1), RETURN(SECCOMP_RET_TRACE), RETURN(SECCOMP_RET_ALLOW)

/* Wait until the parent traces this process, then have it stopped at every system call that changes files.
 * Returns 0, or an error number. */
int watch(int ready) {
    struct sock_filter filter[] = {
        LOAD(offsetof(struct seccomp_data, nr)),
        TRACE_FLAGS(SYS_open, 1, O_CREAT | O_TRUNC),
        TRACE_FLAGS(SYS_openat, 2, O_CREAT | O_TRUNC),
        TRACE_FLAGS(SYS_mmap, 2, PROT_WRITE),
        TRACE(SYS_creat), TRACE(SYS_openat2),
        TRACE(SYS_write), TRACE(SYS_pwrite64), TRACE(SYS_writev), TRACE(SYS_pwritev), TRACE(SYS_pwritev2),
        TRACE(SYS_sendfile), TRACE(SYS_copy_file_range), TRACE(SYS_splice),
        TRACE(SYS_truncate), TRACE(SYS_ftruncate), TRACE(SYS_fallocate),
        TRACE(SYS_rename), TRACE(SYS_renameat), TRACE(SYS_renameat2),
        TRACE(SYS_link), TRACE(SYS_linkat), TRACE(SYS_symlink), TRACE(SYS_symlinkat),
        TRACE(SYS_unlink), TRACE(SYS_unlinkat), TRACE(SYS_rmdir), TRACE(SYS_mkdir), TRACE(SYS_mkdirat),
        TRACE(SYS_fsync), TRACE(SYS_fdatasync), TRACE(SYS_sync_file_range), TRACE(SYS_sync), TRACE(SYS_syncfs),
        TRACE(SYS_io_uring_setup),
        RETURN(SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    struct rlimit none = {0, 0};
    char byte;
    setrlimit(RLIMIT_CORE, &none);
    if (read(ready, &byte, 1) != 1)
        return EPIPE;
    close(ready);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return errno;
    return 0;
}

/* ---- in its parent ---- */

static int below_roots(const char *path) {
    const char *root = plan.roots;
    while (*root) {
        size_t length = strcspn(root, ":");
        if (!strncmp(path, root, length) && (path[length] == '/' || !path[length]))
            return 1;
        root += length + (root[length] == ':');
    }
    return 0;
}

static void link_target(pid_t thread, const char *what, long number, char *target) {
    char link[64];
    if (number < 0)
        snprintf(link, sizeof link, "/proc/%d/%s", thread, what);
    else
        snprintf(link, sizeof link, "/proc/%d/%s/%ld", thread, what, number);
    ssize_t length = readlink(link, target, PATH_MAX - 1);
    target[length < 0 ? 0 : length] = 0;
}

/* Read a path out of the memory of the process, and make it absolute. */
static void read_path(pid_t thread, int folder, uint64_t address, char *path) {
    char given[PATH_MAX], base[PATH_MAX];
    size_t length = 0;
    while (length < sizeof given - 1) { /* by pages: the one behind may not be there */
        size_t part = 4096 - (address + length) % 4096;
        part = part < sizeof given - 1 - length ? part : sizeof given - 1 - length;
        struct iovec here = {given + length, part}, there = {(void *)(address + length), part};
        ssize_t got = process_vm_readv(thread, &here, 1, &there, 1, 0);
        if (got <= 0 || memchr(given + length, 0, got))
            break;
        length += got;
    }
    given[sizeof given - 1] = 0;
    if (given[0] == '/') {
        strcpy(path, given);
        return;
    }
    link_target(thread, folder == AT_FDCWD ? "cwd" : "fd", folder == AT_FDCWD ? -1 : folder, base);
    if (snprintf(path, PATH_MAX, "%s/%s", base, given) >= PATH_MAX)
        path[0] = 0;
}

static int of_file(struct event *event, const char *kind, long file, int is_written) {
    event->kind = kind;
    event->file = is_written ? (int)file : -1;
    link_target(event->thread, "fd", file, event->path);
    return 1;
}

static int of_path(struct event *event, const char *kind, int folder, uint64_t address) {
    event->kind = kind;
    read_path(event->thread, folder, address, event->path);
    return 1;
}

static int of_paths(struct event *event, const char *kind, int from, uint64_t old, int to, uint64_t new) {
    read_path(event->thread, to, new, event->second);
    return of_path(event, kind, from, old);
}

/* Fill in what a system call does; returns whether it concerns a file. */
static int classify(struct event *e, uint64_t call, const uint64_t *a) {
    switch (call) {
    case SYS_open: return of_path(e, a[1] & O_TRUNC ? "open, truncate" : "create", AT_FDCWD, a[0]);
    case SYS_creat: return of_path(e, "open, truncate", AT_FDCWD, a[0]);
    case SYS_openat: return of_path(e, a[2] & O_TRUNC ? "open, truncate" : "create", a[0], a[1]);
    case SYS_openat2: return of_path(e, "create", a[0], a[1]);
    case SYS_write: case SYS_pwrite64: case SYS_writev: case SYS_pwritev: case SYS_pwritev2:
        return (int)a[0] > 2 && of_file(e, "write", a[0], 1);
    case SYS_sendfile: return of_file(e, "copy", a[0], 1);
    case SYS_copy_file_range: case SYS_splice: return of_file(e, "copy", a[2], 1);
    case SYS_truncate: return of_path(e, "truncate", AT_FDCWD, a[0]);
    case SYS_ftruncate: case SYS_fallocate: return of_file(e, "truncate", a[0], 1);
    case SYS_mmap: return (a[3] & MAP_SHARED) && (int)a[4] >= 0 && of_file(e, "map", a[4], 1);
    case SYS_rename: return of_paths(e, "rename", AT_FDCWD, a[0], AT_FDCWD, a[1]);
    case SYS_renameat: case SYS_renameat2: return of_paths(e, "rename", a[0], a[1], a[2], a[3]);
    case SYS_link: return of_paths(e, "link", AT_FDCWD, a[0], AT_FDCWD, a[1]);
    case SYS_linkat: return of_paths(e, "link", a[0], a[1], a[2], a[3]);
    case SYS_symlink: return of_path(e, "symlink", AT_FDCWD, a[1]);
    case SYS_symlinkat: return of_path(e, "symlink", a[1], a[2]);
    case SYS_unlink: return of_path(e, "unlink", AT_FDCWD, a[0]);
    case SYS_unlinkat: return of_path(e, a[2] & AT_REMOVEDIR ? "rmdir" : "unlink", a[0], a[1]);
    case SYS_rmdir: return of_path(e, "rmdir", AT_FDCWD, a[0]);
    case SYS_mkdir: return of_path(e, "mkdir", AT_FDCWD, a[0]);
    case SYS_mkdirat: return of_path(e, "mkdir", a[0], a[1]);
    case SYS_fsync: case SYS_fdatasync: return of_file(e, "fsync", a[0], 0);
    case SYS_sync_file_range: return of_file(e, "sync_file_range", a[0], 0);
    default: /* sync, syncfs, io_uring_setup: not modelled, so that they must not happen unseen */
        e->kind = "unknown";
        snprintf(e->path, PATH_MAX, "%.*s", (int)strcspn(plan.roots, ":"), plan.roots);
        return 1;
    }
}

/* Let a write take half of its bytes. */
static void tear(pid_t thread, uint64_t call, const uint64_t *a) {
    if (call == SYS_write || call == SYS_pwrite64) {
        ptrace(PTRACE_POKEUSER, thread, offsetof(struct user_regs_struct, rdx), (void *)(a[2] / 2));
        return;
    }
    struct iovec parts[64];
    size_t count = a[2] < 64 ? a[2] : 64, total = 0;
    struct iovec here = {parts, count * sizeof *parts}, there = {(void *)a[1], count * sizeof *parts};
    if (process_vm_readv(thread, &here, 1, &there, 1, 0) < 0)
        return;
    for (size_t i = 0; i < count; i++)
        total += parts[i].iov_len;
    size_t left = total / 2;
    for (size_t i = 0; i < count; i++) {
        parts[i].iov_len = parts[i].iov_len < left ? parts[i].iov_len : left;
        left -= parts[i].iov_len;
    }
    process_vm_writev(thread, &here, 1, &there, 1, 0);
}

static void write_log(const struct event *event, const char *result) {
    fprintf(event_log, "%ld\t%s\t%s\t%s\t%s\n", event->number, event->kind, result, event->path, event->second);
    fflush(event_log);
}

/* Copy what the file of an event holds now. */
static void copy_content(const struct event *event) {
    char source[64], target[PATH_MAX], block[1 << 16];
    snprintf(source, sizeof source, "/proc/%d/fd/%d", event->thread, event->file);
    snprintf(target, sizeof target, "%s/%ld", plan.copies, event->number);
    int from = open(event->file < 0 ? event->path : source, O_RDONLY), to = open(target, O_WRONLY | O_CREAT, 0600);
    ssize_t got;
    while ((got = read(from, block, sizeof block)) > 0)
        if (write(to, block, got) != got)
            abort();
    close(from);
    close(to);
}

static void kill_now(void) {
    long other = 0;
    FILE *file = *plan.other ? fopen(plan.other, "r") : NULL;
    if (file && fscanf(file, "%ld", &other) == 1 && other > 1)
        kill(-other, SIGKILL);
    if (file)
        fclose(file);
    if (plan.kills_itself)
        kill(-root_process, SIGKILL);
}

static struct event *event_of(pid_t thread) {
    for (size_t i = 0; i < sizeof pending / sizeof *pending; i++)
        if (pending[i].thread == thread)
            return &pending[i];
    return NULL;
}

/* At the entry of a system call; returns how the thread goes on. */
static long on_entry(pid_t thread) {
    struct ptrace_syscall_info call;
    struct event *event = event_of(0);
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof call, &call) <= 0 || !event)
        return PTRACE_CONT;
    *event = (struct event){.thread = thread, .file = -1};
    uint64_t arguments[6];
    for (int i = 0; i < 6; i++)
        arguments[i] = call.seccomp.args[i];
    if (!classify(event, call.seccomp.nr, arguments) || !(below_roots(event->path) || below_roots(event->second))) {
        event->thread = 0;
        return PTRACE_CONT;
    }
    event->number = ++events;
    if (event->number == plan.kill_at && plan.how == BEFORE) {
        write_log(event, "-");
        kill_now(); /* a process that is killed at this stop does not make the call */
    }
    if (event->number == plan.kill_at && plan.how == TORN && !strcmp(event->kind, "write"))
        tear(thread, call.seccomp.nr, arguments);
    return PTRACE_SYSCALL;
}

static void on_exit_of_call(pid_t thread) {
    struct ptrace_syscall_info call;
    struct event *event = event_of(thread);
    if (!event || ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof call, &call) <= 0)
        return;
    char result[32];
    snprintf(result, sizeof result, "%lld", (long long)call.exit.rval);
    if (event->number != plan.kill_at || plan.how != BEFORE)
        write_log(event, result);
    const char *kind = event->kind;
    int changes = event->file >= 0 || !strcmp(kind, "create") || strstr(kind, "truncate");
    if (*plan.copies && call.exit.rval >= 0 && changes)
        copy_content(event);
    if (event->number == plan.kill_at && plan.how != BEFORE)
        kill_now();
    event->thread = 0;
}

static void forward(int number) { kill(root_process, number); }

/* Trace a child, which waits in `watch`, to its end, and end as it ends: with its exit status, or by its signal. */
void trace(pid_t child, int go, const struct plan *wanted) {
    plan = *wanted;
    root_process = child;
    event_log = fopen(plan.log, "w");
    long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |
                   PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
    if (!event_log || ptrace(PTRACE_SEIZE, child, 0, options)) {
        perror("trace");
        kill(child, SIGKILL);
        _exit(70);
    }
    fprintf(event_log, "%d\n", child);
    fflush(event_log);
    signal(SIGTERM, forward);
    signal(SIGINT, forward);
    signal(SIGHUP, forward);
    if (write(go, "", 1) != 1)
        _exit(70);
    int status;
    for (;;) {
        pid_t thread = waitpid(-1, &status, __WALL);
        if (thread < 0 && errno == EINTR)
            continue;
        if (thread < 0)
            _exit(70);
        if (!WIFSTOPPED(status)) {
            struct event *event = event_of(thread);
            if (event)
                event->thread = 0;
            if (thread == child)
                break;
            continue;
        }
        int what = status >> 16, number = WSTOPSIG(status);
        if (what == PTRACE_EVENT_SECCOMP)
            ptrace(on_entry(thread), thread, 0, 0);
        else if (number == (SIGTRAP | 0x80)) {
            on_exit_of_call(thread);
            ptrace(PTRACE_CONT, thread, 0, 0);
        } else if (what == PTRACE_EVENT_STOP && number != SIGTRAP)
            ptrace(PTRACE_LISTEN, thread, 0, 0);
        else
            ptrace(PTRACE_CONT, thread, 0, what ? 0 : number);
    }
    fclose(event_log);
    if (WIFEXITED(status))
        _exit(WEXITSTATUS(status));
    signal(WTERMSIG(status), SIG_DFL);
    kill(getpid(), WTERMSIG(status));
    _exit(70);
}
