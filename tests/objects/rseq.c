/* Restartable sequences, as glibc registers them for each thread. Verified: the kernel still keeps the processor's number up
 * to date in each thread's area, and the area is still registered (it cannot be registered again elsewhere). */
#include "object.h"
#include <linux/rseq.h>
#include <sched.h>
#include <sys/rseq.h>

static volatile int go;

static struct rseq *area(void) { return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset); }

static void look(void) {
    for (int i = 0; i < 1000; i++) {
        unsigned before, now, after;
        int tries = 0;
        /* It may be carried to another processor between two looks, and back again. */
        do {
            before = *(volatile unsigned *)&area()->cpu_id;
            NEED(syscall(SYS_getcpu, &now, NULL, NULL) == 0);
            after = *(volatile unsigned *)&area()->cpu_id;
            verify(before != (unsigned)RSEQ_CPU_ID_UNINITIALIZED, "not registered");
        } while ((before != now || after != now) && ++tries < 1000);
        verify(tries < 1000, "the area says processor %u, the kernel says %u", after, now);
        if (i % 100 == 0) sched_yield();
    }
    static _Thread_local struct rseq other __attribute__((aligned(32)));
    VERIFY(syscall(SYS_rseq, &other, sizeof other, 0, RSEQ_SIG) == -1 && errno != ENOSYS);
}

static void *thread(void *arg) {
    while (!go) pause_ms(1);
    look();
    return arg;
}

int main(void) {
    if (__rseq_size == 0) {
        need(0, "glibc has not registered rseq");
    }
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) NEED(pthread_create(&threads[i], NULL, thread, NULL) == 0);
    look();

    ready();

    go = 1;
    look();
    for (int i = 0; i < 3; i++) VERIFY(pthread_join(threads[i], NULL) == 0);
    return verified();
}
