/* Forks beside a thread that allocates, with fork handlers that were registered before all
 * constructors. Linked with the library, if LIBRARY is defined: with handlers registered before or
 * after those of the allocator, as the loader orders the constructors. */
#include "handlers.h"

#ifdef LIBRARY
int handlers_library(void);
#else
static void first(int count, char **words, char **environment) { pthread_atfork(prepare, after, after); }
__attribute__((section(".preinit_array"), used)) static void (*before)(int, char **, char **) = first;
static int handlers_library(void) { return 1; }
#endif

static volatile int is_over;

static void *beside(void *argument) {
    while (!is_over)
        free(malloc(1000));
    return argument;
}

int main(void) {
    pthread_t thread;
    if (!handlers_library() || pthread_create(&thread, NULL, beside, NULL))
        return 1;
    for (int round = 0; round < 50; round++)
        fork_once();
    is_over = 1;
    pthread_join(thread, NULL);
    return 0;
}
