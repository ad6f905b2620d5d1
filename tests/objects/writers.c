/* Memory that changes all the time while it is moved: pages written in place, mappings that come, move, shrink, are protected and given
 * back, a heap that grows, a deep stack, private pages of a file, children that are forked from a changing parent, write, execute another
 * program, and end. Everything is verified as it goes on, and once more at the end: each page holds what its index and version say. */
#include "object.h"
#include <sys/resource.h>

#define PAGES 2048u
#define WORDS (4096 / 8)

struct page {
    uint64_t index, version, sum, rest[WORDS - 3];
};

static struct page *plain;
static uint64_t versions[PAGES];
static volatile int over;

static void write_page(struct page *page, uint64_t index, uint64_t version) {
    page->index = index;
    page->version = version;
    for (unsigned i = 0; i < WORDS - 3; i += 31) page->rest[i] = version * 31 + index + i;
    page->sum = index ^ (version << 20) ^ 0x5eed;
}

static void verify_page(const struct page *page, uint64_t index, uint64_t version, const char *what) {
    verify(page->index == index && page->version == version && page->sum == (index ^ (version << 20) ^ 0x5eed),
           "%s: page %llu holds (%llu, %llu), not version %llu", what, (unsigned long long)index,
           (unsigned long long)page->index, (unsigned long long)page->version, (unsigned long long)version);
    for (unsigned i = 0; i < WORDS - 3; i += 31)
        verify(page->rest[i] == version * 31 + index + i, "%s: page %llu is torn", what, (unsigned long long)index);
}

static uint64_t next(uint64_t *seed) {
    *seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return *seed >> 33;
}

/* In place: some pages hot, some written once. */
static void *writes(void *unused) {
    (void)unused;
    uint64_t seed = 1;
    while (!over) {
        for (int i = 0; i < 40; i++) {
            uint64_t at = i % 2 ? next(&seed) % 64 : next(&seed) % PAGES;
            verify_page(&plain[at], at, versions[at], "in place");
            write_page(&plain[at], at, ++versions[at]);
        }
        pause_ms(1);
    }
    return NULL;
}

/* Mappings that come and go. */
static void *maps(void *unused) {
    (void)unused;
    uint64_t seed = 2, round = 0;
    while (!over) {
        uint64_t count = 16 + next(&seed) % 200;
        struct page *at = mmap(NULL, count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        NEED(at != MAP_FAILED);
        round++;
        for (uint64_t i = 0; i < count; i += 1 + i % 3) write_page(&at[i], i, round);
        pause_ms((long)(next(&seed) % 12));
        /* Somewhere else, larger. */
        struct page *moved = mremap(at, count * 4096, count * 2 * 4096, MREMAP_MAYMOVE);
        NEED(moved != MAP_FAILED);
        pause_ms((long)(next(&seed) % 5));
        VERIFY(madvise(&moved[count / 2], 4 * 4096, MADV_DONTNEED) == 0);
        VERIFY(mprotect(moved, 4096, PROT_READ) == 0);
        pause_ms((long)(next(&seed) % 5));
        for (uint64_t i = 0; i < count; i += 1 + i % 3) {
            if (i >= count / 2 && i < count / 2 + 4) {
                verify(moved[i].sum == 0, "given back: page %llu is not zero", (unsigned long long)i);
            } else {
                verify_page(&moved[i], i, round, "moved");
            }
        }
        for (uint64_t i = count; i < count * 2; i++) VERIFY_EQ(moved[i].sum, 0);
        VERIFY(munmap(moved, count * 2 * 4096) == 0);
        pause_ms(1);
    }
    return NULL;
}

/* Children of a parent whose memory changes: what a child has is what its parent had then. */
static void *forks(void *unused) {
    (void)unused;
    struct page *mine = mmap(NULL, 256 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NEED(mine != MAP_FAILED);
    for (uint64_t round = 1; !over; round++) {
        for (uint64_t i = 0; i < 256; i++) write_page(&mine[i], i, round);
        pid_t child = fork();
        NEED(child != -1);
        if (child == 0) {
            for (int times = 0; times < 5; times++) {
                for (uint64_t i = 0; i < 256; i++) verify_page(&mine[i], i, round + (i < 64 ? (uint64_t)times * 1000 : 0), "child");
                for (uint64_t i = 0; i < 64; i++) write_page(&mine[i], i, round + (uint64_t)(times + 1) * 1000);
                pause_ms(4);
            }
            if (round % 4 == 0) execl("/bin/true", "true", (char *)NULL);
            _exit(0);
        }
        for (uint64_t i = 100; i < 200; i++) write_page(&mine[i], i, round + 500);
        int status;
        VERIFY(waitpid(child, &status, 0) == child);
        verify(status == 0, "a child ended with %x", status);
        for (uint64_t i = 0; i < 256; i++) verify_page(&mine[i], i, i >= 100 && i < 200 ? round + 500 : round, "parent");
    }
    return NULL;
}

/* A deep stack, written on the way down and verified on the way up. */
static uint64_t dive(int depth, uint64_t seed) {
    volatile uint64_t here[256];
    for (int i = 0; i < 256; i++) here[i] = seed + (uint64_t)i;
    if (depth % 64 == 0) pause_ms(1);
    uint64_t below = depth == 0 ? 0 : dive(depth - 1, seed * 3 + 1);
    for (int i = 0; i < 256; i++) VERIFY(here[i] == seed + (uint64_t)i);
    return below + 1;
}

static void *stacks(void *unused) {
    (void)unused;
    for (uint64_t seed = 1; !over; seed++) VERIFY_EQ(dive(300, seed), 301);
    return NULL;
}

int main(void) {
    plain = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NEED(plain != MAP_FAILED);
    for (uint64_t i = 0; i < PAGES; i++) write_page(&plain[i], i, 0);
    /* Private pages of a file: some written, and given back again. */
    char path[] = "/var/tmp/writers";
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    NEED(fd != -1 && ftruncate(fd, 64 * 4096) == 0);
    for (uint64_t i = 0; i < 64; i++) {
        struct page page = {0};
        write_page(&page, i, 7);
        NEED(pwrite(fd, &page, 4096, (off_t)(i * 4096)) == 4096);
    }
    struct page *file = mmap(NULL, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    NEED(file != MAP_FAILED && close(fd) == 0);

    pthread_t threads[4];
    void *(*work[4])(void *) = {writes, maps, forks, stacks};
    for (int i = 0; i < 4; i++) NEED(pthread_create(&threads[i], NULL, work[i], NULL) == 0);

    dprintf(1, "READY\n");
    char *heap = sbrk(0);
    uint64_t grown = 0;
    for (uint64_t round = 0; access(GO_FILE, F_OK) == -1; round++) {
        uint64_t at = round % 64;
        if (file[at].version == 7) {
            verify_page(&file[at], at, 7, "of the file");
            write_page(&file[at], at, 8);
        } else {
            verify_page(&file[at], at, 8, "private");
            VERIFY(madvise(&file[at], 4096, MADV_DONTNEED) == 0);
            verify_page(&file[at], at, 7, "of the file again");
        }
        if (grown < 512 && sbrk(4096) != (void *)-1) {
            /* malloc may have grown it, too: only what is surely ours is written. */
            *(uint64_t *)((char *)sbrk(0) - 64) = grown++;
        }
        pause_ms(2);
    }
    over = 1;
    for (int i = 0; i < 4; i++) NEED(pthread_join(threads[i], NULL) == 0);
    VERIFY((char *)sbrk(0) >= heap + grown * 4096);
    for (uint64_t i = 0; i < PAGES; i++) verify_page(&plain[i], i, versions[i], "at the end");
    unlink(path);
    return verified();
}
