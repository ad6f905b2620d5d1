/* What /proc says of the program itself: its executable, command line, environment, auxiliary vector, working directory and root
 * (changed by chroot in a child, a removed directory in another). Verified: all the same. */
#include "object.h"
#include <sys/auxv.h>

static size_t read_file(const char *path, char *into, size_t bytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    verify(fd != -1, "%s", path);
    ssize_t got = read(fd, into, bytes);
    close(fd);
    VERIFY(got >= 0);
    return (size_t)got;
}

static void compare(int first) {
    static const char *files[] = {"/proc/self/cmdline", "/proc/self/environ", "/proc/self/auxv", "/proc/self/comm", "/proc/self/personality"};
    static char before[5][16384], now[16384];
    static size_t length[5];
    for (int i = 0; i < 5; i++) {
        if (first) {
            length[i] = read_file(files[i], before[i], sizeof before[i]);
            continue;
        }
        size_t got = read_file(files[i], now, sizeof now);
        verify(got == length[i] && !memcmp(now, before[i], got), "%s has changed", files[i]);
    }
    static char exe[256], cwd[256];
    char link[256] = {0};
    ssize_t got = readlink("/proc/self/exe", link, sizeof link - 1);
    VERIFY(got > 0);
    if (first) strcpy(exe, link);
    verify(!strcmp(exe, link), "exe is %s, was %s", link, exe);
    VERIFY(getcwd(link, sizeof link) != NULL);
    if (first) strcpy(cwd, link);
    verify(!strcmp(cwd, link), "the directory is %s, was %s", link, cwd);
}

int main(void) {
    NEED(mkdir("/var/lib/object-root", 0755) == 0 && mkdir("/var/lib/object-root/inner", 0755) == 0);
    NEED(mkdir("/var/lib/object-gone", 0755) == 0);
    volatile int *step = shared_page();
    pid_t jailed = fork();
    if (jailed == 0) {
        NEED(chdir("/var/lib/object-root/inner") == 0 && chroot("/var/lib/object-root") == 0);
        step[1] = 1;
        while (!step[0]) pause_ms(1);
        char here[64];
        VERIFY(getcwd(here, sizeof here) && !strcmp(here, "/inner"));
        VERIFY(access("/inner", F_OK) == 0 && access("/usr", F_OK) == -1);
        _exit(0);
    }
    pid_t homeless = fork();
    if (homeless == 0) {
        NEED(chdir("/var/lib/object-gone") == 0 && rmdir("/var/lib/object-gone") == 0);
        step[2] = 1;
        while (!step[0]) pause_ms(1);
        char here[64];
        VERIFY(getcwd(here, sizeof here) == NULL && errno == ENOENT);
        VERIFY(open("new", O_CREAT | O_RDWR, 0600) == -1 && errno == ENOENT);
        _exit(0);
    }
    while (!step[1] || !step[2]) pause_ms(1);
    NEED(chdir("/usr/lib") == 0);
    compare(1);

    ready();

    compare(0);
    step[0] = 1;
    int status;
    VERIFY(waitpid(jailed, &status, 0) == jailed);
    verify(status == 0, "the one with another root: %x", status);
    VERIFY(waitpid(homeless, &status, 0) == homeless);
    verify(status == 0, "the one in a removed directory: %x", status);
    return verified();
}
