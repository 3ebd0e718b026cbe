/* On one CPU, real-time threads and others of normal priority allocate; more threads than the
 * allocator has CPU slots sleep. Then a real-time thread forks. */
#include "work.h"
#include <sched.h>
#include <time.h>

enum { SLEEPERS = 200, SECONDS = 2 };
static volatile int is_over;
static volatile long rounds;

static void allocate(void) {
    char *block = malloc(1 << 20);
    *block = 1;
    free(block);
    for (int at = 0; at < 20; at++)
        free(malloc(64 + at * 100));
}

static void *sleep_only(void *argument) {
    free(malloc(100));
    while (!is_over)
        usleep(200000);
    return argument;
}

static void *normal(void *argument) {
    while (!is_over)
        allocate();
    return argument;
}

static void *real_time(void *argument) {
    struct timespec pause = {0, 300000};
    struct sched_param priority = {50};
    pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority);
    while (!is_over) {
        nanosleep(&pause, NULL);
        for (int at = 0; at < 5; at++)
            allocate();
        rounds++;
    }
    return argument;
}

int main(void) {
    struct sched_param low = {40};
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setaffinity(0, sizeof one, &one);
    pthread_t thread;
    for (int at = 0; at < SLEEPERS; at++)
        if (pthread_create(&thread, NULL, sleep_only, NULL))
            return 1;
    usleep(300000);
    void *(*workers[])(void *) = {normal, normal, real_time, real_time};
    for (int at = 0; at < 4; at++)
        if (pthread_create(&thread, NULL, workers[at], NULL))
            return 1;
    sleep(SECONDS);
    if (rounds < 100 * SECONDS) {
        fprintf(stderr, "%ld rounds of the real-time threads\n", rounds);
        _exit(1);
    }
    if (sched_setscheduler(0, SCHED_FIFO, &low))
        fprintf(stderr, "no real-time threads here: not tested\n");
    fork_once();
    _exit(0);
}
