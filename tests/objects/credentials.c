/* Credentials: user and group ids of all kinds, supplementary groups, capability sets, securebits, no_new_privs, keep-caps,
 * dumpable, child-subreaper, death signal, nice, scheduling policy, limits, umask, timer slack. Verified: all. */
#include "object.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static void as_user(void) {
    gid_t groups[] = {7, 1234, 4321, 65000}, got[8];
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct set[2], now[2];
    struct rlimit limit = {100, 200}, core = {0, 4096};
    NEED(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP) == 0);
    NEED(setgroups(4, groups) == 0);
    NEED(setresgid(1001, 1002, 1003) == 0 && setresuid(2001, 2002, 2003) == 0);
    NEED(syscall(SYS_capget, &header, set) == 0);
    set[0].effective = 1u << CAP_NET_BIND_SERVICE;
    set[0].permitted = 1u << CAP_NET_BIND_SERVICE | 1u << CAP_KILL | 1u << CAP_CHOWN;
    set[0].inheritable = 1u << CAP_KILL;
    set[1].effective = set[1].permitted = set[1].inheritable = 0;
    NEED(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT) == 0 || errno == EPERM);
    NEED(syscall(SYS_capset, &header, set) == 0);
    NEED(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0) == 0);
    NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    NEED(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    NEED(prctl(PR_SET_PDEATHSIG, SIGUSR2) == 0);
    NEED(prctl(PR_SET_DUMPABLE, 1) == 0);
    NEED(prctl(PR_SET_TIMERSLACK, 77777) == 0);
    NEED(prctl(PR_SET_NAME, "a ) name (") == 0);
    NEED(setpriority(PRIO_PROCESS, 0, 7) == 0);
    struct sched_param batch = {0};
    NEED(sched_setscheduler(0, SCHED_BATCH, &batch) == 0);
    NEED(setrlimit(RLIMIT_NOFILE, &limit) == 0 && setrlimit(RLIMIT_CORE, &core) == 0);
    umask(0137);
    int securebits = prctl(PR_GET_SECUREBITS);

    ready();

    uid_t r, e, s;
    VERIFY(getresuid(&r, &e, &s) == 0 && r == 2001 && e == 2002 && s == 2003);
    VERIFY(getresgid(&r, &e, &s) == 0 && r == 1001 && e == 1002 && s == 1003);
    VERIFY_EQ(setfsuid((uid_t)-1), 2002);
    VERIFY_EQ(setfsgid((gid_t)-1), 1002);
    VERIFY_EQ(getgroups(8, got), 4);
    VERIFY(memcmp(got, groups, sizeof groups) == 0);
    VERIFY(syscall(SYS_capget, &header, now) == 0);
    VERIFY_EQ(now[0].effective, set[0].effective);
    VERIFY_EQ(now[0].permitted, set[0].permitted);
    VERIFY_EQ(now[0].inheritable, set[0].inheritable);
    VERIFY_EQ(now[1].permitted, 0);
    VERIFY_EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0), 1);
    VERIFY_EQ(prctl(PR_CAPBSET_READ, CAP_NET_RAW), 1);
    VERIFY_EQ(prctl(PR_GET_SECUREBITS), securebits);
    VERIFY_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    int value = 0;
    VERIFY(prctl(PR_GET_CHILD_SUBREAPER, &value) == 0 && value == 1);
    VERIFY(prctl(PR_GET_PDEATHSIG, &value) == 0 && value == SIGUSR2);
    VERIFY_EQ(prctl(PR_GET_DUMPABLE), 1);
    VERIFY_EQ(prctl(PR_GET_TIMERSLACK), 77777);
    char name[16];
    VERIFY(prctl(PR_GET_NAME, name) == 0 && !strcmp(name, "a ) name ("));
    VERIFY_EQ(getpriority(PRIO_PROCESS, 0), 7);
    VERIFY_EQ(sched_getscheduler(0), SCHED_BATCH);
    VERIFY(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur == 100 && limit.rlim_max == 200);
    VERIFY(getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur == 0 && core.rlim_max == 4096);
    VERIFY_EQ(umask(0), 0137);
    _exit(33);
}

int main(void) {
    /* In a child, because the harness talks to the first task only. */
    pid_t child = fork();
    if (child == 0) as_user();
    int status;
    NEED(waitpid(child, &status, 0) == child);
    NEED(WIFEXITED(status));
    verify(WEXITSTATUS(status) == 33, "the child ended with %d", WEXITSTATUS(status));
    return verified();
}
