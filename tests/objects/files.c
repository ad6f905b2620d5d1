/* Regular files and directories: offsets, flags (append, non-blocking, close-on-exec, path-only), a duplicate and an inherited
 * description that share an offset, a deleted file, a directory read half way, a file with holes. Verified: all. */
#include "object.h"
#include <dirent.h>

int main(void) {
    char got[64];
    int plain = open("/var/lib/object-plain", O_RDWR | O_CREAT, 0600);
    int append = open("/var/lib/object-append", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0600);
    int deleted = open("/var/lib/object-deleted", O_RDWR | O_CREAT, 0600);
    int reading = open("/etc/passwd", O_RDONLY);
    int path = open("/etc/group", O_PATH);
    int null = open("/dev/null", O_WRONLY);
    NEED(plain != -1 && append != -1 && deleted != -1 && reading != -1 && path != -1 && null != -1);
    int duplicate = dup(plain), far = fcntl(plain, F_DUPFD_CLOEXEC, 700);
    NEED(duplicate != -1 && far == 700);
    NEED(write(plain, "0123456789", 10) == 10 && lseek(plain, 4, SEEK_SET) == 4);
    NEED(write(append, "one ", 4) == 4);
    NEED(write(deleted, "deleted content", 15) == 15 && unlink("/var/lib/object-deleted") == 0);
    NEED(ftruncate(deleted, 1 << 20) == 0);
    NEED(read(reading, got, 10) == 10);
    char passwd[20];
    NEED(pread(reading, passwd, 20, 10) == 20);
    NEED(mkdir("/var/lib/object-many", 0700) == 0);
    for (int i = 0; i < 300; i++) {
        snprintf(got, sizeof got, "/var/lib/object-many/%03d", i);
        close(open(got, O_CREAT | O_WRONLY, 0600));
    }
    DIR *directory = opendir("/var/lib/object-many");
    NEED(directory);
    static char seen[300];
    for (int i = 0; i < 100; i++) {
        struct dirent *entry = readdir(directory);
        NEED(entry);
        if (entry->d_name[0] != '.') seen[atoi(entry->d_name)]++;
    }
    int to_child[2];
    NEED(pipe(to_child) == 0);
    pid_t child = fork();
    if (child == 0) {
        VERIFY(read(to_child[0], got, 1) == 1);
        VERIFY(lseek(plain, 2, SEEK_CUR) == 7);
        _exit(0);
    }

    ready();

    VERIFY_EQ(lseek(plain, 0, SEEK_CUR), 4);
    VERIFY(read(duplicate, got, 1) == 1 && got[0] == '4');
    VERIFY_EQ(lseek(far, 0, SEEK_CUR), 5);
    VERIFY_EQ(fcntl(far, F_GETFD), FD_CLOEXEC);
    VERIFY_EQ(fcntl(duplicate, F_GETFD), 0);
    VERIFY(write(to_child[1], "x", 1) == 1);
    int status;
    VERIFY(waitpid(child, &status, 0) == child && status == 0);
    VERIFY_EQ(lseek(plain, 0, SEEK_CUR), 7);
    VERIFY_EQ(fcntl(append, F_GETFL) & (O_APPEND | O_NONBLOCK | O_ACCMODE), O_APPEND | O_NONBLOCK | O_WRONLY);
    VERIFY_EQ(fcntl(append, F_GETFD), FD_CLOEXEC);
    VERIFY(write(append, "two", 3) == 3);
    int check = open("/var/lib/object-append", O_RDONLY);
    VERIFY(read(check, got, 20) == 7 && !memcmp(got, "one two", 7));
    VERIFY(pread(deleted, got, 20, 0) == 20 && !memcmp(got, "deleted content\0\0\0\0\0", 20));
    VERIFY_EQ(lseek(deleted, 0, SEEK_CUR), 15);
    struct stat stat_;
    VERIFY(fstat(deleted, &stat_) == 0 && stat_.st_nlink == 0 && stat_.st_size == 1 << 20);
    VERIFY(access("/var/lib/object-deleted", F_OK) == -1);
    VERIFY(read(reading, got, 20) == 20 && !memcmp(got, passwd, 20));
    VERIFY_EQ(fcntl(path, F_GETFL) & O_PATH, O_PATH);
    VERIFY(read(path, got, 1) == -1 && errno == EBADF);
    VERIFY(write(null, "x", 1) == 1 && fstat(null, &stat_) == 0 && S_ISCHR(stat_.st_mode));
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.') seen[atoi(entry->d_name)]++;
    for (int i = 0; i < 300; i++) verify(seen[i] == 1, "entry %d of the directory was read %d times", i, seen[i]);
    return verified();
}
