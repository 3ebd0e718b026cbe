/* A library whose fork handlers allocate, registered by its constructor. */
#include "handlers.h"

__attribute__((constructor)) static void start(void) { pthread_atfork(prepare, after, after); }

int handlers_library(void) { return 1; }
