/* The shape of the address space: heap by brk, a deep stack, guard pages, read-only and executable areas, locked memory, advice
 * flags, an area that grows downwards, a name. Verified: the same areas with the same rights and flags, and that the heap and the
 * stack still grow. */
#include "object.h"
#include <setjmp.h>
#include <sys/prctl.h>

static char *areas[16];
static sigjmp_buf back;
static void fault(int signal) { siglongjmp(back, signal); }

static int reads(volatile char *at) {
    if (sigsetjmp(back, 1)) return 0;
    (void)*at;
    return 1;
}
static int writes(volatile char *at) {
    if (sigsetjmp(back, 1)) return 0;
    *at = *at;
    return 1;
}

/* Rights and flags of the area at an address, from /proc/self/smaps. */
static void flags_of(const void *at, char *rights, char *flags, size_t bytes) {
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[1024];
    int inside = 0;
    *rights = *flags = 0;
    while (fgets(line, sizeof line, file)) {
        unsigned long from, to;
        char got[8];
        if (sscanf(line, "%lx-%lx %7s", &from, &to, got) == 3) {
            inside = from <= (unsigned long)at && (unsigned long)at < to;
            if (inside) strcpy(rights, got);
        } else if (inside && !strncmp(line, "VmFlags: ", 9)) {
            /* `sd` (soft-dirty) comes and goes by itself, and whether `mg` is said depends on the kernel. */
            *flags = 0;
            for (char *word = strtok(line + 9, " \n"); word; word = strtok(NULL, " \n")) {
                if (!strcmp(word, "sd") || !strcmp(word, "nh") || !strcmp(word, "mg")) continue;
                if (strlen(flags) + 4 < bytes) strcat(strcat(flags, word), " ");
            }
            if (!strcmp(flags, "")) strcpy(flags, "-");
        }
    }
    fclose(file);
}

static int deep(int levels) {
    volatile char here[4096];
    memset((void *)here, levels, sizeof here);
    int below = levels ? deep(levels - 1) : (ready(), 0);
    for (size_t i = 0; i < sizeof here; i++) VERIFY_EQ(here[i], (char)levels);
    return below + 1;
}

int main(void) {
    for (int i = 0; i < 12; i++) {
        areas[i] = mmap(NULL, 64 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        NEED(areas[i] != MAP_FAILED);
        /* Apart from each other, or the kernel joins them. */
        NEED(mmap(areas[i] + (32 << 10), 32 << 10, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
        fill(areas[i], 32 << 10, (uint64_t)i);
    }
    NEED(mprotect(areas[0], 32 << 10, PROT_READ) == 0);
    NEED(mprotect(areas[1], 32 << 10, PROT_READ | PROT_EXEC) == 0);
    NEED(mprotect(areas[2], 32 << 10, PROT_NONE) == 0);
    NEED(mlock(areas[3], 32 << 10) == 0);
    NEED(mlock2(areas[4], 32 << 10, MLOCK_ONFAULT) == 0);
    NEED(madvise(areas[5], 32 << 10, MADV_DONTFORK) == 0);
    NEED(madvise(areas[6], 32 << 10, MADV_DONTDUMP) == 0);
    NEED(madvise(areas[7], 32 << 10, MADV_WIPEONFORK) == 0);
    NEED(madvise(areas[8], 32 << 10, MADV_NOHUGEPAGE) == 0);
    NEED(madvise(areas[9], 32 << 10, MADV_RANDOM) == 0);
    NEED(madvise(areas[10], 32 << 10, MADV_SEQUENTIAL) == 0);
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, areas[11], 32 << 10, "object");
    char *heap = sbrk(3 << 20);
    NEED(heap != (void *)-1);
    fill(heap, 3 << 20, 99);
    char rights[12][8], flags[12][256], now_rights[8], now_flags[256];
    for (int i = 0; i < 12; i++) flags_of(areas[i], rights[i], flags[i], sizeof flags[i]);
    struct sigaction action = {.sa_handler = fault, .sa_flags = SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);

    VERIFY_EQ(deep(200), 201);

    for (int i = 0; i < 12; i++) {
        flags_of(areas[i], now_rights, now_flags, sizeof now_flags);
        verify(!strcmp(rights[i], now_rights), "area %d: rights %s, were %s", i, now_rights, rights[i]);
        verify(!strcmp(flags[i], now_flags), "area %d: flags %s, were %s", i, now_flags, flags[i]);
        VERIFY(!reads(areas[i] + (32 << 10)));
        if (i != 2) verify(filled(areas[i], 32 << 10, (uint64_t)i), "content of area %d", i);
    }
    VERIFY(reads(areas[0]) && !writes(areas[0]) && !writes(areas[1]) && !reads(areas[2]) && writes(areas[3]));
    VERIFY(mprotect(areas[2], 32 << 10, PROT_READ) == 0 && filled(areas[2], 32 << 10, 2));
    VERIFY(filled(heap, 3 << 20, 99));
    char *top = sbrk(0), *more = sbrk(1 << 20);
    VERIFY(more == top && more >= heap + (3 << 20));
    fill(more, 1 << 20, 5);
    VERIFY(filled(more, 1 << 20, 5));
    return verified();
}
