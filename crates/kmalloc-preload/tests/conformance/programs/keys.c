/* Makes keys of thread-specific data before the first malloc. The C library allocates to store the
 * value of a key beyond the 32nd, so the allocator's own key does so in the middle of its set-up. */
#include "work.h"

#define KEYS 40

static pthread_key_t keys[KEYS];

static void make_keys(int count, char **words, char **environment) {
    for (int at = 0; at < KEYS; at++)
        pthread_key_create(keys + at, free);
}

/* Runs before the constructors of all libraries. */
__attribute__((section(".preinit_array"), used)) static void (*before)(int, char **, char **) = make_keys;

static void *use(void *argument) {
    for (int at = 0; at < 1000; at++)
        free(malloc(at * 7));
    pthread_setspecific(keys[KEYS - 1], malloc(10));
    return argument;
}

int main(void) {
    for (int round = 0; round < 200; round++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, use, NULL))
            return 1;
        pthread_join(thread, NULL);
    }
    return 0;
}
