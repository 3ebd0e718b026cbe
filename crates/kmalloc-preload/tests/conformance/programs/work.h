/* Work that all programs do: growing and shrinking, frees of other threads' memory, forks. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHARED 1024

static void *volatile shared[SHARED];

/* Exchanges blocks of up to 300 KB with other threads; ends the process if one is damaged. */
static void *exchange(void *seed) {
    unsigned long step = (unsigned long)seed * 7919 + 1;
    for (int round = 0; round < 40000; round++) {
        step = step * 6364136223846793005ul + 1442695040888963407ul;
        size_t bytes = (step >> 20) % (round % 500 ? 2000 : 300000);
        char *block = malloc(bytes + 8);
        if (!block)
            abort();
        *(size_t *)block = bytes;
        memset(block + 8, (char)bytes, bytes < 64 ? bytes : 64);
        char *other = __atomic_exchange_n(&shared[(step >> 33) % SHARED], block, __ATOMIC_ACQ_REL);
        if (other) {
            bytes = *(size_t *)other;
            for (size_t at = 0; at < (bytes < 64 ? bytes : 64); at++)
                if (other[8 + at] != (char)bytes)
                    abort();
            free(other);
        }
    }
    return NULL;
}

/* Holds 80 MB in small objects, then grows one block to 100 MB. */
static void grow(void) {
    enum { COUNT = 400000 };
    static char *held[COUNT];
    for (int round = 0; round < 2; round++) {
        for (int at = 0; at < COUNT; at++) {
            if (!(held[at] = malloc(200)))
                abort();
            memset(held[at], 1, 200);
        }
        for (int at = 0; at < COUNT; at++)
            free(held[at]);
        char *block = NULL;
        for (size_t bytes = 1000; bytes < 100 << 20; bytes += bytes / 2) {
            if (!(block = realloc(block, bytes)))
                abort();
            block[bytes - 1] = 1;
        }
        free(block);
    }
}

/* Forks once and waits for the child, which allocates. */
static void fork_once(void) {
    pid_t child = fork();
    if (child < 0)
        abort();
    if (!child) {
        alarm(20);
        for (int at = 0; at < 200; at++)
            free(malloc(at * 100));
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status)
        abort();
}

/* Does all of it with some threads. */
static void work(void) {
    enum { THREADS = 6 };
    pthread_t threads[THREADS];
    for (long at = 0; at < THREADS; at++)
        if (pthread_create(threads + at, NULL, exchange, (void *)(at + 1)))
            abort();
    for (int at = 0; at < 20; at++)
        fork_once();
    for (int at = 0; at < THREADS; at++)
        pthread_join(threads[at], NULL);
    grow();
}
