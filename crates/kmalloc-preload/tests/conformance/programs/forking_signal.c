/* A signal handler forks while the program forks and allocates. */
#include "work.h"
#include <signal.h>
#include <sys/time.h>

static volatile int forks;

static void fork_too(int signal) {
    pid_t child = fork();
    if (!child)
        _exit(0);
    int status;
    waitpid(child, &status, 0);
    forks++;
}

int main(void) {
    struct sigaction action = {.sa_handler = fork_too, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval every = {{0, 3000}, {0, 3000}};
    setitimer(ITIMER_REAL, &every, NULL);
    while (forks < 200) {
        pid_t child = fork();
        if (!child)
            _exit(0);
        int status;
        waitpid(child, &status, 0);
        for (int at = 0; at < 100; at++)
            free(malloc(at * 50));
    }
    return 0;
}
