/* Guard pages without mappings of their own (MADV_GUARD_INSTALL): in anonymous memory, in a private and a shared file mapping, beside
 * pages with content, and one that was taken away again. Verified: each guard still kills who touches it, and nothing else does. */
#include "object.h"
#include <setjmp.h>
#include <sys/utsname.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#define PAGE 4096UL

static sigjmp_buf back;

static void caught(int signal) {
    siglongjmp(back, signal);
}

/* Whether a byte can be read. */
static int readable(const volatile char *at) {
    if (sigsetjmp(back, 1)) return 0;
    (void)*at;
    return 1;
}

static int newer_than(int major, int minor) {
    struct utsname name;
    int has_major = 0, has_minor = 0;
    NEED(uname(&name) == 0 && sscanf(name.release, "%d.%d", &has_major, &has_minor) == 2);
    return has_major > major || (has_major == major && has_minor >= minor);
}

int main(void) {
    /* Linux 6.13 has guards, 6.15 those of files, and tells which pages are. */
    int known = newer_than(6, 15);
    char *plain = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *locked = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = open("/var/lib/object-guards", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    NEED(plain != MAP_FAILED && locked != MAP_FAILED && fd != -1 && ftruncate(fd, 8 * PAGE) == 0);
    char *of_file = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    char *shared = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4 * PAGE);
    NEED(of_file != MAP_FAILED && shared != MAP_FAILED);
    struct sigaction action = {.sa_handler = caught};
    NEED(sigaction(SIGSEGV, &action, NULL) == 0);
    fill(plain, 16 * PAGE, 7);
    fill(locked, 4 * PAGE, 8);
    fill(of_file + PAGE, PAGE, 9);
    fill(shared + PAGE, PAGE, 10);
    if (known) {
        NEED(madvise(plain, 2 * PAGE, MADV_GUARD_INSTALL) == 0);
        NEED(madvise(plain + 5 * PAGE, PAGE, MADV_GUARD_INSTALL) == 0);
        NEED(madvise(plain + 9 * PAGE, 3 * PAGE, MADV_GUARD_INSTALL) == 0);
        NEED(madvise(plain + 10 * PAGE, PAGE, MADV_GUARD_REMOVE) == 0);
        NEED(madvise(plain + 15 * PAGE, PAGE, MADV_GUARD_INSTALL) == 0);
        NEED(madvise(locked, PAGE, MADV_GUARD_INSTALL) == 0);
        NEED(madvise(of_file, PAGE, MADV_GUARD_INSTALL) == 0);
        NEED(madvise(shared + 3 * PAGE, PAGE, MADV_GUARD_INSTALL) == 0);
        NEED(mprotect(plain + 14 * PAGE, 2 * PAGE, PROT_READ) == 0);
        /* The pages that can be locked are; the call says that not all could. */
        NEED(mlock(locked, 4 * PAGE) == 0 || errno == ENOMEM);
    }

    ready();

    for (int round = 0; round < 2; round++) {
        for (int page = 0; page < 16; page++) {
            int guard = known && (page < 2 || page == 5 || page == 9 || page == 11 || page == 15);
            verify(readable(plain + page * PAGE) == !guard, "page %d is %sa guard", page, guard ? "not " : "");
        }
        for (int page = 0; page < 4; page++) {
            int first = known && page == 0, last = known && page == 3;
            verify(readable(locked + page * PAGE) == !first, "locked page %d", page);
            verify(readable(of_file + page * PAGE) == !first, "page %d of the file", page);
            verify(readable(shared + page * PAGE) == !last, "shared page %d", page);
        }
    }
    uint64_t *whole = malloc(16 * PAGE);
    fill(whole, 16 * PAGE, 7);
    VERIFY(memcmp(plain + 6 * PAGE, (char *)whole + 6 * PAGE, 3 * PAGE) == 0);
    VERIFY(memcmp(plain + 12 * PAGE, (char *)whole + 12 * PAGE, 3 * PAGE) == 0);
    VERIFY(!known || (plain[10 * PAGE] == 0 && plain[10 * PAGE + 100] == 0));
    fill(whole, 4 * PAGE, 8);
    VERIFY(memcmp(locked + PAGE, (char *)whole + PAGE, 3 * PAGE) == 0);
    VERIFY(filled(of_file + PAGE, PAGE, 9) && filled(shared + PAGE, PAGE, 10));
    if (known) {
        /* Taken away, it is memory again. */
        VERIFY(madvise(plain, 2 * PAGE, MADV_GUARD_REMOVE) == 0);
        VERIFY(readable(plain) && plain[0] == 0);
    }
    return verified();
}
