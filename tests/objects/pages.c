/* Memory of which much is still missing when the program goes on: read by threads that touch the same pages, while children are forked
 * that keep a snapshot, moved, unmapped, given back, grown. Verified: nobody ever reads anything but what was written, and nobody reads
 * zeros but where memory was given back or is new. */
#include "object.h"

#define MIB (1u << 20)
#define AREA (24u * MIB)
#define PART (4u * MIB)
#define THREADS 4
#define CHILDREN 12

static char *area;
static volatile int *step;

static char *map(size_t bytes, int flags) {
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);
    NEED(at != MAP_FAILED);
    return at;
}

static void check_page(size_t page, const char *who) {
    verify(filled(area + page * 4096, 4096, 1000 + page), "%s: page %zu of the area", who, page);
}

static void *reader(void *number) {
    size_t pages = AREA / 4096, which = (size_t)number;
    for (size_t i = 0; i < pages; i++) {
        /* Forward together, backward, and here and there. */
        size_t page = which < 2 ? i : which == 2 ? pages - 1 - i : i * 4099 % pages;
        check_page(page, "thread");
    }
    return NULL;
}

static int ended(pid_t pid) {
    int status = -1;
    VERIFY_EQ(waitpid(pid, &status, 0), pid);
    return status;
}

/* A child that saves what was there when it came to be, while the parent writes on. */
static void snapshot(int round) {
    size_t pages = AREA / 4096, first = (size_t)round * 397 % (pages - 64);
    *step = 0;
    pid_t child = fork();
    VERIFY(child != -1);
    if (child == 0) {
        while (*step == 0) pause_ms(1);
        for (size_t page = first; page < first + 64; page++) check_page(page, "child");
        fill(area + first * 4096, 4096, 7);
        pid_t grandchild = fork();
        if (grandchild == 0) {
            VERIFY(filled(area + first * 4096, 4096, 7));
            check_page((first + pages / 2) % pages, "grandchild");
            _exit(0);
        }
        _exit(ended(grandchild) != 0);
    }
    char before[4096];
    memcpy(before, area + first * 4096, 4096);
    fill(area + first * 4096, 4096, 99);
    *step = 1;
    VERIFY_EQ(ended(child), 0);
    VERIFY(filled(area + first * 4096, 4096, 99));
    memcpy(area + first * 4096, before, 4096);
}

static int deep(int levels) {
    volatile char frame[4096];
    frame[0] = (char)levels;
    int below = levels > 0 ? deep(levels - 1) : 0;
    return below + (frame[0] == (char)levels ? 0 : 1);
}

int main(int argc, char **argv) {
    if (argc > 1) return strcmp(argv[1], "again") == 0 ? 0 : 1;
    area = map(AREA, MAP_PRIVATE);
    char *moved = map(PART, MAP_PRIVATE), *gone = map(PART, MAP_PRIVATE), *given = map(PART, MAP_PRIVATE);
    char *huge = map(2 * PART, MAP_PRIVATE), *shared = map(PART, MAP_SHARED), *holes = map(PART, MAP_PRIVATE);
    char *grows = map(2 * PART, MAP_PRIVATE);
    step = (volatile int *)map(4096, MAP_SHARED);
    NEED(munmap(grows + PART, PART) == 0);
    madvise(huge, 2 * PART, MADV_HUGEPAGE);
    char *locked = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
    for (size_t page = 0; page < AREA / 4096; page++) fill(area + page * 4096, 4096, 1000 + page);
    fill(moved, PART, 2);
    fill(gone, PART, 3);
    fill(given, PART, 4);
    fill(huge, 2 * PART, 5);
    fill(shared, PART, 6);
    fill(grows, PART, 8);
    for (size_t at = 0; at < PART; at += 8192) fill(holes + at, 4096, at);
    if (locked != MAP_FAILED) fill(locked, 65536, 9);
    char *heap = malloc(3 * MIB / 2 - 64);
    char *top = sbrk(65536);
    NEED(heap && top != (void *)-1);
    fill(heap, 65536, 10);
    fill(top, 65536, 11);

    ready();

    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) VERIFY_EQ(pthread_create(&threads[i], NULL, reader, (void *)i), 0);
    /* Given back: zero from now on, and the other half is as it was. */
    VERIFY_EQ(madvise(given, PART / 2, MADV_DONTNEED), 0);
    for (size_t at = 0; at < PART / 2; at += 4096) VERIFY_EQ(given[at], 0);
    VERIFY_EQ(munmap(gone, PART / 2), 0);
    char *other = mmap(NULL, PART, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    VERIFY(mremap(moved, PART, PART, MREMAP_MAYMOVE | MREMAP_FIXED, other) == other);
    verify(filled(other, PART, 2), "what was moved");
    VERIFY(mremap(grows, PART, 2 * PART, MREMAP_MAYMOVE) != MAP_FAILED || errno == ENOMEM);
    char *half = map(PART, MAP_PRIVATE);
    fill(half, PART, 3);
    verify(memcmp(gone + PART / 2, half + PART / 2, PART / 2) == 0, "what is left of what was unmapped");
    fill(half, PART, 4);
    verify(memcmp(given + PART / 2, half + PART / 2, PART / 2) == 0, "what is left of what was given back");
    for (size_t i = 0; i < THREADS; i++) VERIFY_EQ(pthread_join(threads[i], NULL), 0);
    for (int round = 0; round < CHILDREN; round++) snapshot(round);
    verify(filled(huge, 2 * PART, 5), "huge pages");
    for (size_t at = 0; at < PART; at += 8192) {
        verify(filled(holes + at, 4096, at), "between holes at %zu", at);
        VERIFY_EQ(holes[at + 4096], 0);
    }
    pid_t child = fork();
    if (child == 0) {
        verify(filled(shared, PART, 6), "shared memory in a child");
        fill(shared, PART, 12);
        execl("/proc/self/exe", "pages", "again", NULL);
        _exit(3);
    }
    VERIFY_EQ(ended(child), 0);
    verify(filled(shared, PART, 12), "shared memory");
    if (locked != MAP_FAILED) verify(filled(locked, 65536, 9), "locked memory");
    verify(filled(heap, 65536, 10) && filled(top, 65536, 11), "the heap");
    char *more = sbrk(MIB);
    for (size_t at = 0; at < MIB; at += 4096) VERIFY_EQ(more[at], 0);
    VERIFY_EQ(deep(400), 0);
    return verified();
}
