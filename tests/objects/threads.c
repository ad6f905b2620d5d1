/* Twelve threads with names, thread-local variables, keys and stacks; some wait on a condition, some spin, one has ended.
 * Verified: ids, names, thread-local storage, that locks and conditions still work between them. */
#include "object.h"
#include <sys/prctl.h>

#define COUNT 12

static __thread unsigned local_value;
static __thread char local_buffer[300];
static pthread_key_t key;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER, awake = PTHREAD_COND_INITIALIZER;
static int up, go, right;
static volatile int spin_until;

static void *thread(void *arg) {
    unsigned number = (unsigned)(uintptr_t)arg;
    char name[16], wanted[16];
    local_value = number * 1000003;
    memset(local_buffer, (int)number, sizeof local_buffer);
    pthread_setspecific(key, (void *)(uintptr_t)(number + 7));
    snprintf(wanted, sizeof wanted, "object-%u", number);
    prctl(PR_SET_NAME, wanted);
    pid_t tid = gettid();
    volatile unsigned on_stack[64];
    for (unsigned i = 0; i < 64; i++) on_stack[i] = number ^ i;

    pthread_mutex_lock(&mutex);
    up++;
    pthread_cond_signal(&awake);
    if (number % 3 == 0) {
        pthread_mutex_unlock(&mutex);
        while (!spin_until) {}
        pthread_mutex_lock(&mutex);
    }
    while (!go) pthread_cond_wait(&wake, &mutex);

    VERIFY_EQ(local_value, number * 1000003);
    for (size_t i = 0; i < sizeof local_buffer; i++) VERIFY_EQ(local_buffer[i], (char)number);
    VERIFY_EQ((uintptr_t)pthread_getspecific(key), number + 7);
    prctl(PR_GET_NAME, name);
    verify(strcmp(name, wanted) == 0, "thread %u is called %s", number, name);
    VERIFY_EQ(gettid(), tid);
    for (unsigned i = 0; i < 64; i++) VERIFY_EQ(on_stack[i], number ^ i);
    right++;
    pthread_mutex_unlock(&mutex);
    return (void *)(uintptr_t)(number + 100);
}

static void *ends(void *arg) {
    return arg;
}

int main(void) {
    pthread_t threads[COUNT], ended;
    pthread_key_create(&key, NULL);
    NEED(pthread_create(&ended, NULL, ends, (void *)55) == 0);
    for (uintptr_t i = 0; i < COUNT; i++) NEED(pthread_create(&threads[i], NULL, thread, (void *)i) == 0);
    pthread_mutex_lock(&mutex);
    while (up < COUNT) pthread_cond_wait(&awake, &mutex);
    pthread_mutex_unlock(&mutex);

    ready();

    spin_until = 1;
    pthread_mutex_lock(&mutex);
    go = 1;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&mutex);
    void *result;
    VERIFY(pthread_join(ended, &result) == 0 && result == (void *)55);
    for (uintptr_t i = 0; i < COUNT; i++) {
        VERIFY(pthread_join(threads[i], &result) == 0);
        VERIFY_EQ((uintptr_t)result, i + 100);
    }
    VERIFY_EQ(right, COUNT);
    return verified();
}
