/* Filters of system calls.
 *
 * sandbox kill NUMBER, sandbox refuse NUMBER ERROR: runs itself again under a filter that kills it
 * at this call, or refuses the call, and works.
 * sandbox allow: works a little, then allows itself only what a server's sandbox allows
 * (OpenSSH's), and goes on. */
#include "work.h"
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define LOAD(field) (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define SKIP_UNLESS(value, count) (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, count)
#define RETURN(value) (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, value)

static struct sock_filter filter[200];
static unsigned short length;

static void add(struct sock_filter instruction) { filter[length++] = instruction; }

static void install(void) {
    struct sock_fprog program = {.len = length, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        fprintf(stderr, "no filter may be installed here: not tested\n");
        exit(0);
    }
}

static void allow(int number) {
    add(SKIP_UNLESS(number, 1));
    add(RETURN(SECCOMP_RET_ALLOW));
}

/* Allows the call where its third argument is one of `values`. */
static void allow_with(int number, const int *values, int count) {
    add(SKIP_UNLESS(number, 2 * count + 2));
    add(LOAD(args[2]));
    for (int at = 0; at < count; at++) {
        add(SKIP_UNLESS(values[at], 1));
        add(RETURN(SECCOMP_RET_ALLOW));
    }
    add(RETURN(SECCOMP_RET_KILL_PROCESS));
}

static void install_allowed(void) {
    static const int calls[] = {SYS_brk, SYS_clock_gettime, SYS_close, SYS_exit, SYS_exit_group, SYS_futex,
                                SYS_getpid, SYS_getrandom, SYS_gettid, SYS_gettimeofday, SYS_mprotect,
                                SYS_mremap, SYS_munmap, SYS_nanosleep, SYS_clock_nanosleep, SYS_read,
                                SYS_rt_sigprocmask, SYS_rt_sigaction, SYS_rt_sigreturn, SYS_write,
                                SYS_clone3, SYS_set_robust_list, SYS_rseq, SYS_clone};
    static const int advice[] = {MADV_NORMAL, MADV_FREE, MADV_DONTNEED, MADV_WILLNEED, MADV_DONTDUMP, MADV_WIPEONFORK};
    static const int access[] = {PROT_NONE, PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE};
    add(LOAD(nr));
    for (size_t at = 0; at < sizeof calls / sizeof *calls; at++)
        allow(calls[at]);
    allow_with(SYS_madvise, advice, 6);
    allow_with(SYS_mmap, access, 4);
    add(RETURN(SECCOMP_RET_KILL_PROCESS));
    install();
}

int main(int count, char **words) {
    if (count == 2 && !strcmp(words[1], "work")) {
        work();
        return 0;
    }
    if (count == 2 && !strcmp(words[1], "allow")) {
        install_allowed();
        grow();
        pthread_t threads[3];
        for (long at = 0; at < 3; at++)
            if (pthread_create(threads + at, NULL, exchange, (void *)(at + 1)))
                return 1;
        for (int at = 0; at < 3; at++)
            pthread_join(threads[at], NULL);
        grow();
        _exit(0);
    }
    int error = count > 3 ? atoi(words[3]) : 0;
    add(LOAD(nr));
    add(SKIP_UNLESS(atoi(words[2]), 1));
    add(RETURN(error ? SECCOMP_RET_ERRNO | error : SECCOMP_RET_KILL_PROCESS));
    add(RETURN(SECCOMP_RET_ALLOW));
    install();
    execl("/proc/self/exe", "sandbox", "work", NULL);
    return 1;
}
