/* Threads with processors, a niceness and a policy of their own, and one with none of it. Verified: each has what it had; what was
 * bound to one processor still is, and what was not may run wherever it might. A child that is born afterwards inherits that. */
#define _GNU_SOURCE
#include "object.h"
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>

struct wish {
    const char *name;
    int bound, niceness, policy;
    cpu_set_t set;
    volatile int up;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int go;
static cpu_set_t all;

static void bind_to_first(cpu_set_t *set) {
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all)) continue;
        CPU_ZERO(set);
        CPU_SET(cpu, set);
        NEED(sched_setaffinity(0, sizeof *set, set) == 0);
        return;
    }
}

static void has(const char *name, cpu_set_t *wanted) {
    cpu_set_t now;
    NEED(sched_getaffinity(0, sizeof now, &now) == 0);
    verify(CPU_EQUAL(&now, wanted), "%s may run on %d processors, it was %d", name, CPU_COUNT(&now), CPU_COUNT(wanted));
}

static void *thread(void *arg) {
    struct wish *self = arg;
    struct sched_param none = {0};
    self->set = all;
    if (self->bound) bind_to_first(&self->set);
    if (self->policy) NEED(sched_setscheduler(0, self->policy, &none) == 0);
    if (self->niceness) NEED(setpriority(PRIO_PROCESS, gettid(), self->niceness) == 0);
    pthread_mutex_lock(&mutex);
    self->up = 1;
    while (!go) pthread_cond_wait(&wake, &mutex);
    pthread_mutex_unlock(&mutex);
    has(self->name, &self->set);
    VERIFY_EQ(sched_getscheduler(0), self->policy);
    errno = 0;
    VERIFY_EQ(getpriority(PRIO_PROCESS, gettid()), self->niceness);
    return NULL;
}

int main(void) {
    static struct wish wishes[] = {
        {.name = "the free thread"},
        {.name = "the bound thread", .bound = 1},
        {.name = "the nice thread", .niceness = 7},
        {.name = "the thread in batches", .policy = SCHED_BATCH, .bound = 1},
        {.name = "the idle thread", .policy = SCHED_IDLE},
    };
    enum { COUNT = sizeof wishes / sizeof *wishes };
    pthread_t threads[COUNT];
    NEED(sched_getaffinity(0, sizeof all, &all) == 0);
    for (int i = 0; i < COUNT; i++) NEED(pthread_create(&threads[i], NULL, thread, &wishes[i]) == 0);
    for (int i = 0; i < COUNT; i++) {
        while (!wishes[i].up) pause_ms(1);
    }

    ready();

    pthread_mutex_lock(&mutex);
    go = 1;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < COUNT; i++) pthread_join(threads[i], NULL);
    has("the first thread", &all);
    pid_t child = fork();
    if (child == 0) {
        cpu_set_t now;
        _exit(sched_getaffinity(0, sizeof now, &now) != 0 || !CPU_EQUAL(&now, &all));
    }
    int status;
    NEED(waitpid(child, &status, 0) == child);
    verify(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a new child may not run where its parent may");
    return verified();
}
