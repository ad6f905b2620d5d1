/* A tree whose memory and processes change while it is being moved: at each step file that the harness makes it maps, unmaps, moves,
 * grows, forks, runs another program and collects. Verified: everything that it wrote, in every process, and that memory which is
 * one mapping here is one mapping after the move too. */
#include "object.h"

#define PAGES 256
#define BYTES (PAGES * 4096)

struct child {
    pid_t pid;
    char *own;
    uint64_t seed;
};

static char *self;
static int *go;

static void step(int number) {
    char path[32];
    snprintf(path, sizeof path, "/tmp/step%d", number);
    /* A harness that makes no steps lets all of them happen after the last move. */
    while (access(path, F_OK) == -1 && access(GO_FILE, F_OK) == -1) pause_ms(2);
}

static char *map(size_t bytes, uint64_t seed) {
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NEED(at != MAP_FAILED);
    if (seed) fill(at, bytes, seed);
    return at;
}

/* A child that fills memory of its own, waits, and verifies it. */
static pid_t child(uint64_t seed, int grand) {
    int pair[2];
    NEED(pipe(pair) == 0);
    pid_t pid = fork();
    NEED(pid >= 0);
    if (pid == 0) {
        char *own = map(BYTES, seed);
        pid_t below = grand ? child(seed + 1, 0) : 0;
        close(pair[0]);
        NEED(write(pair[1], "x", 1) == 1);
        close(pair[1]);
        while (!__atomic_load_n(go, __ATOMIC_SEQ_CST)) pause_ms(2);
        int right = filled(own, BYTES, seed), status;
        if (below && (waitpid(below, &status, 0) != below || status != 0)) _exit(3);
        _exit(right ? 0 : 4);
    }
    char byte;
    close(pair[1]);
    NEED(read(pair[0], &byte, 1) == 1);
    close(pair[0]);
    return pid;
}

/* What the program is after it has run itself again. */
static int again(const char *seed) {
    char *own = map(BYTES, strtoull(seed, NULL, 10));
    dprintf(1, "AGAIN\n");
    while (access(GO_FILE, F_OK) == -1) pause_ms(2);
    return filled(own, BYTES, strtoull(seed, NULL, 10)) ? 0 : 5;
}

static void collect(pid_t pid) {
    int status = -1;
    pid_t got = waitpid(pid, &status, 0);
    verify(got == pid && status == 0, "child %d: wait gave %d, status %#x", pid, got, status);
}

int main(int count, char **words) {
    if (count == 3) return again(words[2]);
    self = words[0];
    go = shared_page();
    char *shared = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    NEED(shared != MAP_FAILED);
    fill(shared, BYTES, 11);
    char *area = map(3 * BYTES, 0);
    fill(area, BYTES, 21);
    fill(area + BYTES, BYTES, 22);
    fill(area + 2 * BYTES, BYTES, 23);
    char *grown = map(BYTES, 31);
    int program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    char *file = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, program, 0);
    NEED(file != MAP_FAILED);
    memset(file + 4096, 'f', 100);
    char *heap = sbrk(BYTES);
    fill(heap, BYTES, 41);
    pid_t stays = child(51, 1), ends = child(52, 0), runs = fork();
    NEED(runs >= 0);
    if (runs == 0) {
        step(1);
        execl("/proc/self/exe", self, "again", "61", (char *)NULL);
        _exit(9);
    }
    dprintf(1, "READY\n");

    step(1);
    NEED(munmap(area + BYTES, BYTES) == 0);
    grown = mremap(grown, BYTES, 4 * BYTES, MREMAP_MAYMOVE);
    NEED(grown != MAP_FAILED);
    fill(grown + BYTES, 3 * BYTES, 32);
    char *higher = sbrk(BYTES);
    NEED(higher != (void *)-1);
    fill(higher, BYTES, 42);
    NEED(mprotect(file, 4096, PROT_READ) == 0);
    char *more = map(BYTES + 4096, 71);
    kill(ends, SIGKILL);
    int status;
    NEED(waitpid(ends, &status, 0) == ends);
    pid_t later = child(53, 1);
    char *both = mmap(NULL, BYTES + 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    NEED(both != MAP_FAILED);
    fill(both, BYTES, 12);
    dprintf(1, "STEP1\n");

    step(2);
    /* One mapping now, where there were two and a hole: its middle was never written. */
    NEED(munmap(more, BYTES + 4096) == 0);
    NEED(munmap(area, 3 * BYTES) == 0);
    NEED(mmap(area, 3 * BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == area);
    fill(area, BYTES, 24);
    fill(area + 2 * BYTES, BYTES, 25);
    memset(shared + 4096, 's', 4096);
    dprintf(1, "STEP2\n");

    ready();
    VERIFY(filled(area, BYTES, 24));
    for (size_t i = 0; i < BYTES; i++) VERIFY(area[BYTES + i] == 0);
    VERIFY(filled(area + 2 * BYTES, BYTES, 25));
    char *moved = mremap(area, 3 * BYTES, 6 * BYTES, MREMAP_MAYMOVE);
    verify(moved != MAP_FAILED, "one mapping has become several: errno %d", errno);
    VERIFY(filled(moved, BYTES, 24));
    VERIFY(filled(grown, BYTES, 31));
    VERIFY(filled(grown + BYTES, 3 * BYTES, 32));
    VERIFY(filled(heap, BYTES, 41));
    VERIFY(filled(higher, BYTES, 42));
    VERIFY(sbrk(4096) >= (void *)(higher + BYTES));
    for (size_t i = 0; i < 100; i++) VERIFY(file[4096 + i] == 'f');
    VERIFY(file[0] == 0x7f);
    for (size_t i = 0; i < 4096; i++) VERIFY(shared[4096 + i] == 's');
    VERIFY(filled(shared, 4096, 11));
    VERIFY(filled(both, BYTES, 12));
    __atomic_store_n(go, 1, __ATOMIC_SEQ_CST);
    collect(stays);
    collect(later);
    collect(runs);
    return verified();
}
