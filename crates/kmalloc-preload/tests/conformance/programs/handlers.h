/* A fork handler that waits for a thread that allocates. */
#include "work.h"

static void *allocate(void *argument) {
    for (int at = 0; at < 200; at++)
        free(malloc(100 + at * 37));
    return argument;
}

static void prepare(void) {
    pthread_t thread;
    void *block = malloc(100);
    if (!pthread_create(&thread, NULL, allocate, NULL))
        pthread_join(thread, NULL);
    free(block);
}

static void after(void) {
    for (int at = 0; at < 10; at++)
        free(malloc(300 + at));
}
