/* A tree of 120 processes, five deep, that all count. Verified: all are alive, each at its place, and go on counting. */
#include "object.h"

static volatile int *counts;
static volatile pid_t *parents;

static void grow(int first, int last, int depth) {
    counts[first] = 1;
    int each = (last - first - 1) / 3;
    for (int part = 0; depth < 5 && each > 0 && part < 3; part++) {
        int from = first + 1 + part * each, to = part == 2 ? last : from + each;
        if (fork() == 0) {
            parents[from] = getppid();
            grow(from, to, depth + 1);
        }
    }
    if (first == 0) return;
    for (;;) {
        pause_ms(5);
        verify(getppid() == parents[first], "task %d has another parent", first);
        counts[first]++;
    }
}

int main(void) {
    counts = shared_page();
    parents = shared_page();
    grow(0, 120, 0);
    pause_ms(100);
    int before[120], alive = 0;

    ready();

    for (int i = 0; i < 120; i++) before[i] = counts[i];
    pause_ms(300);
    for (int i = 1; i < 120; i++) {
        if (!before[i]) continue;
        alive++;
        verify(counts[i] > before[i], "task %d does not go on", i);
    }
    verify(alive >= 39, "only %d tasks", alive);
    signal(SIGTERM, SIG_IGN);
    setpgid(0, 0);
    return verified();
}
