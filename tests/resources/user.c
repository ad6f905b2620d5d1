/* Uses a library that is mapped from the start, and one that is loaded when the last move is over. Verified: both are the ones of
 * the host where it began, by what they answer and by their content under the old path. */
#include "../objects/object.h"
#include <dlfcn.h>

static const char *early = "/usr/local/lib/libearly.so";

static int ask(void *library) {
    int (*answer)(void) = (int (*)(void))dlsym(library, "answer");
    VERIFY(answer != NULL);
    return answer();
}

static uint64_t content(const char *path) {
    uint64_t sum = 1469598103934665603ULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC), got;
    unsigned char bytes[4096];
    verify(fd >= 0, "%s cannot be opened: errno %d", path, errno);
    while ((got = read(fd, bytes, sizeof bytes)) > 0)
        for (int at = 0; at < got; at++) sum = (sum ^ bytes[at]) * 1099511628211ULL;
    VERIFY(got == 0 && close(fd) == 0);
    return sum;
}

int main(int argc, char **argv) {
    NEED(argc == 2);
    void *library = dlopen(early, RTLD_NOW);
    need(library != NULL, "%s", dlerror());
    NEED(ask(library) == 1);
    uint64_t before = content(early);

    ready();

    VERIFY_EQ(ask(library), 1);
    VERIFY(content(early) == before);
    /* Once more under its name: the mapped one is found, by its inode. */
    void *again = dlopen(early, RTLD_NOW);
    verify(again == library, "%s is another file now", early);
    void *late = dlopen(argv[1], RTLD_NOW);
    verify(late != NULL, "%s", dlerror());
    VERIFY_EQ(ask(late), 2);
    return verified();
}
