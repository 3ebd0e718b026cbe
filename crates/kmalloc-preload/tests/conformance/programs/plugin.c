/* A plugin that is opened so that it finds the C library's malloc, not the program's. */
#include <stdlib.h>
#include <string.h>

char *get(size_t bytes) { return strcpy(malloc(bytes), "plugin"); }

void put(char *block) { free(block); }
