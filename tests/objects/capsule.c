/* What the capsule itself holds: a tmpfs mounted by the workload with files in it, a bind mount, files written and removed through
 * the overlay, a link with two names, modes, owners, times and extended attributes, the hostname, /dev/shm. Verified: all of it. */
#include "object.h"
#include <sys/mount.h>
#include <sys/xattr.h>

static char block[65536];

static void put(const char *path, uint64_t seed) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    need(fd != -1, "%s", path);
    fill(block, sizeof block, seed);
    NEED(write(fd, block, sizeof block) == sizeof block);
    close(fd);
}

static void is_there(const char *path, uint64_t seed) {
    int fd = open(path, O_RDONLY);
    verify(fd != -1, "%s is gone (errno %d)", path, errno);
    memset(block, 0, sizeof block);
    VERIFY(read(fd, block, sizeof block) == sizeof block);
    verify(filled(block, sizeof block, seed), "%s has other content", path);
    close(fd);
}

int main(void) {
    NEED(mkdir("/mnt/object", 0751) == 0);
    NEED(mount("object", "/mnt/object", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=8m,mode=0711") == 0);
    NEED(mkdir("/mnt/object/deep", 0700) == 0);
    put("/mnt/object/deep/file", 1);
    NEED(mkdir("/mnt/bound", 0755) == 0);
    NEED(mount("/mnt/object/deep", "/mnt/bound", NULL, MS_BIND, NULL) == 0);
    NEED(sethostname("moved-host", 10) == 0);
    put("/dev/shm/object", 2);
    put("/tmp/object", 3);
    put("/var/lib/object-file", 4);
    NEED(chown("/var/lib/object-file", 1234, 4321) == 0 && chmod("/var/lib/object-file", 06750) == 0);
    struct timespec times[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
    NEED(utimensat(AT_FDCWD, "/var/lib/object-file", times, 0) == 0);
    NEED(link("/var/lib/object-file", "/var/lib/object-link") == 0);
    NEED(symlink("object-file", "/var/lib/object-symlink") == 0);
    NEED(setxattr("/var/lib/object-file", "user.object", "value", 5, 0) == 0 || errno == EOPNOTSUPP);
    int has_attribute = getxattr("/var/lib/object-file", "user.object", NULL, 0) == 5;
    NEED(mkdir("/var/lib/object-dir", 0700) == 0 && chmod("/var/lib/object-dir", 01777) == 0);
    put("/var/lib/object-dir/in it", 5);
    /* A file of the host's that the workload removes stays removed, and a directory made anew hides the old one. */
    NEED(access("/etc/hostname", F_OK) == 0 && unlink("/etc/hostname") == 0);
    NEED(mkfifo("/var/lib/object-fifo", 0620) == 0);

    ready();

    struct stat stat_, other;
    is_there("/mnt/object/deep/file", 1);
    is_there("/mnt/bound/file", 1);
    VERIFY(stat("/mnt/object", &stat_) == 0 && (stat_.st_mode & 07777) == 0711);
    VERIFY(stat("/mnt/object/deep/file", &stat_) == 0 && stat("/mnt/bound/file", &other) == 0);
    VERIFY(stat_.st_dev == other.st_dev && stat_.st_ino == other.st_ino);
    char name[64];
    VERIFY(gethostname(name, sizeof name) == 0 && !strcmp(name, "moved-host"));
    is_there("/dev/shm/object", 2);
    is_there("/tmp/object", 3);
    is_there("/var/lib/object-file", 4);
    VERIFY(stat("/var/lib/object-file", &stat_) == 0);
    VERIFY(stat_.st_uid == 1234 && stat_.st_gid == 4321);
    VERIFY_EQ(stat_.st_mode & 07777, 06750);
    VERIFY_EQ(stat_.st_nlink, 2);
    VERIFY(stat_.st_mtim.tv_sec == 1100000000 && stat_.st_mtim.tv_nsec == 987654321);
    VERIFY(stat("/var/lib/object-link", &other) == 0 && other.st_ino == stat_.st_ino);
    VERIFY(readlink("/var/lib/object-symlink", name, sizeof name) == 11 && !memcmp(name, "object-file", 11));
    if (has_attribute) VERIFY(getxattr("/var/lib/object-file", "user.object", name, sizeof name) == 5 && !memcmp(name, "value", 5));
    VERIFY(stat("/var/lib/object-dir", &stat_) == 0 && (stat_.st_mode & 07777) == 01777);
    is_there("/var/lib/object-dir/in it", 5);
    VERIFY(access("/etc/hostname", F_OK) == -1 && errno == ENOENT);
    VERIFY(stat("/var/lib/object-fifo", &stat_) == 0 && S_ISFIFO(stat_.st_mode));
    VERIFY(umount("/mnt/bound") == 0 && umount("/mnt/object") == 0);
    return verified();
}
