/* Shared memory that changes all the time while it is moved: born shared, a memfd that is open, and a deleted file. It is written to
 * through mappings by two processes that last, by children that live for a moment, through write, and by punching holes and cutting; a
 * mapping of it comes and goes. Verified as it goes on, and once more at the end: each page holds what was written to it last. */
#include "object.h"

#define PAGES 1024u
#define EXTRA 64u
#define PAGE 4096u

static char *born, *opened, *deleted;
static int memfd;
static uint64_t born_versions[PAGES], opened_versions[PAGES + EXTRA], deleted_versions[PAGES];

static uint64_t next(uint64_t *seed) {
    *seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return *seed >> 33;
}

/* Version 0: nothing was ever written, or it was taken away. */
static uint64_t word(uint64_t page, uint64_t version) {
    return version ? version * 0x9e3779b97f4a7c15ULL + page : 0;
}

static void put(char *area, uint64_t page, uint64_t version) {
    uint64_t value = word(page, version);
    for (unsigned at = 0; at < PAGE; at += 512) memcpy(area + page * PAGE + at, &value, sizeof value);
}

static void is(const char *area, uint64_t page, uint64_t version, const char *what) {
    for (unsigned at = 0; at < PAGE; at += 512) {
        uint64_t value;
        memcpy(&value, area + page * PAGE + at, sizeof value);
        verify(value == word(page, version), "%s: page %llu at %u is not version %llu", what, (unsigned long long)page, at,
               (unsigned long long)version);
    }
}

/* The lower half of what was born shared is this one's. */
static int companion(int *over) {
    uint64_t seed = 5;
    while (!__atomic_load_n(over, __ATOMIC_SEQ_CST)) {
        for (int i = 0; i < 8; i++) {
            uint64_t page = next(&seed) % (PAGES / 2);
            is(born, page, born_versions[page], "the companion's");
            put(born, page, ++born_versions[page]);
        }
        pause_ms(2);
    }
    for (uint64_t page = 0; page < PAGES / 2; page++) is(born, page, born_versions[page], "the companion's in the end");
    return 0;
}

/* Writes one page and ends. */
static void momentary(char *area, uint64_t page, uint64_t version) {
    int status = -1;
    pid_t pid = fork();
    NEED(pid >= 0);
    if (pid == 0) {
        put(area, page, version);
        _exit(0);
    }
    VERIFY(waitpid(pid, &status, 0) == pid && status == 0);
}

static void by_descriptor(uint64_t *seed) {
    char block[PAGE] = {0};
    uint64_t page = next(seed) % PAGES, other = next(seed) % (PAGES - 4), tail = PAGES + next(seed) % EXTRA;
    opened_versions[page]++;
    uint64_t value = word(page, opened_versions[page]);
    for (unsigned at = 0; at < PAGE; at += 512) memcpy(block + at, &value, sizeof value);
    VERIFY(pwrite(memfd, block, PAGE, (off_t)page * PAGE) == PAGE);
    VERIFY(fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)other * PAGE, 2 * PAGE) == 0);
    opened_versions[other] = opened_versions[other + 1] = 0;
    /* What is behind is cut off, and comes back as zeros. */
    VERIFY(ftruncate(memfd, (off_t)PAGES * PAGE) == 0);
    VERIFY(ftruncate(memfd, (off_t)(PAGES + EXTRA) * PAGE) == 0);
    memset(&opened_versions[PAGES], 0, EXTRA * sizeof *opened_versions);
    put(opened, tail, ++opened_versions[tail]);
}

static void step(uint64_t *seed, uint64_t number) {
    for (int i = 0; i < 6; i++) {
        uint64_t a = PAGES / 2 + next(seed) % (PAGES / 2), b = next(seed) % PAGES, c = next(seed) % PAGES;
        is(born, a, born_versions[a], "born shared");
        is(opened, b, opened_versions[b], "opened");
        is(deleted, c, deleted_versions[c], "deleted");
        put(born, a, ++born_versions[a]);
        put(opened, b, ++opened_versions[b]);
        put(deleted, c, ++deleted_versions[c]);
    }
    if (number % 5 == 0) by_descriptor(seed);
    if (number % 7 == 0) {
        uint64_t a = PAGES / 2 + next(seed) % (PAGES / 2), c = next(seed) % PAGES;
        momentary(born, a, ++born_versions[a]);
        momentary(deleted, c, ++deleted_versions[c]);
    }
    if (number % 11 == 0) {
        /* Written through a mapping that is gone at once. */
        uint64_t b = next(seed) % PAGES;
        char *moment = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
        VERIFY(moment != MAP_FAILED);
        put(moment, b, ++opened_versions[b]);
        VERIFY(munmap(moment, PAGES * PAGE) == 0);
        VERIFY(madvise(deleted, PAGES * PAGE, MADV_DONTNEED) == 0);
    }
}

int main(void) {
    memfd = memfd_create("opened", 0);
    int file = open("/dev/shm/writers", O_RDWR | O_CREAT | O_EXCL, 0600);
    NEED(memfd != -1 && file != -1 && unlink("/dev/shm/writers") == 0);
    NEED(ftruncate(memfd, (off_t)(PAGES + EXTRA) * PAGE) == 0 && ftruncate(file, (off_t)PAGES * PAGE) == 0);
    born = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    opened = mmap(NULL, (PAGES + EXTRA) * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    deleted = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    NEED(born != MAP_FAILED && opened != MAP_FAILED && deleted != MAP_FAILED);
    close(file);
    int *over = shared_page();
    pid_t lasting = fork();
    NEED(lasting >= 0);
    if (lasting == 0) _exit(companion(over));

    dprintf(1, "READY\n");
    uint64_t seed = 9, number = 0;
    while (access(GO_FILE, F_OK) == -1) {
        step(&seed, number++);
        pause_ms(2);
    }
    __atomic_store_n(over, 1, __ATOMIC_SEQ_CST);
    int status = -1;
    VERIFY(waitpid(lasting, &status, 0) == lasting && status == 0);
    for (uint64_t page = PAGES / 2; page < PAGES; page++) is(born, page, born_versions[page], "born shared, in the end");
    for (uint64_t page = 0; page < PAGES + EXTRA; page++) is(opened, page, opened_versions[page], "opened, in the end");
    for (uint64_t page = 0; page < PAGES; page++) is(deleted, page, deleted_versions[page], "deleted, in the end");
    return verified();
}
