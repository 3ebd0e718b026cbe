/* A library whose versions of some functions of the C library allocate. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define REPLACE(type, name, parameters, arguments) \
    type name parameters {                         \
        static type(*next) parameters;             \
        void *block = malloc(333);                 \
        if (block)                                 \
            memset(block, 1, 333);                 \
        if (!next)                                 \
            next = dlsym(RTLD_NEXT, #name);        \
        free(realloc(block, 1000));                \
        return next arguments;                     \
    }

REPLACE(unsigned long, getauxval, (unsigned long type), (type))
REPLACE(int, pthread_key_create, (pthread_key_t *key, void (*end)(void *)), (key, end))
REPLACE(int, pthread_setspecific, (pthread_key_t key, const void *value), (key, value))
REPLACE(int, sched_yield, (void), ())
REPLACE(long, sysconf, (int name), (name))
REPLACE(char *, getenv, (const char *name), (name))
REPLACE(int, madvise, (void *start, size_t bytes, int advice), (start, bytes, advice))
REPLACE(int, getrlimit, (__rlimit_resource_t which, struct rlimit *limit), (which, limit))
