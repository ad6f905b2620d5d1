/* A tree: children in the same group, in a group and in a session of their own, a grandchild, an orphan, a zombie with its
 * exit code. Verified: every pid, parent, group and session, and what waitpid() says. */
#include "object.h"

struct member { volatile pid_t pid, parent, group, session; volatile int verified; };
enum { PLAIN, OWN_GROUP, OWN_SESSION, GRANDCHILD, ORPHAN, MEMBERS };

static struct member *members;

static void look(struct member *m) {
    m->parent = getppid();
    m->group = getpgrp();
    m->session = getsid(0);
    m->pid = getpid();
}

static void stay(int which) {
    struct member *m = &members[which], before;
    look(m);
    before = *m;
    while (access(GO_FILE, F_OK) == -1) pause_ms(2);
    VERIFY_EQ(getpid(), before.pid);
    VERIFY_EQ(getppid(), before.parent);
    VERIFY_EQ(getpgrp(), before.group);
    VERIFY_EQ(getsid(0), before.session);
    /* The grandchild must not lose its parent before it has looked. */
    for (int tries = 0; which == OWN_SESSION && !members[GRANDCHILD].verified && tries < 5000; tries++) pause_ms(1);
    m->verified = 1;
    /* The leader of the session waits for the grandchild, whose parent it must still be. */
    if (which == OWN_SESSION) VERIFY(wait(NULL) != -1);
    _exit(40 + which);
}

int main(void) {
    members = shared_page();
    pid_t pids[3];
    for (int which = PLAIN; which <= OWN_SESSION; which++) {
        pids[which] = fork();
        NEED(pids[which] != -1);
        if (pids[which]) continue;
        if (which == OWN_GROUP) NEED(setpgid(0, 0) == 0);
        if (which == OWN_SESSION) {
            NEED(setsid() != -1);
            if (fork() == 0) stay(GRANDCHILD);
            if (fork() == 0) {
                pid_t parent = getpid();
                if (fork() == 0) {
                    while (getppid() == parent) pause_ms(1);
                    stay(ORPHAN);
                }
                _exit(0);
            }
            /* The orphan's parent is reaped here, the grandchild at the end. */
            int status;
            NEED(wait(&status) != -1);
        }
        stay(which);
    }
    pid_t zombie = fork();
    if (zombie == 0) _exit(77);
    for (int which = 0; which < MEMBERS; which++)
        while (!members[which].pid) pause_ms(1);
    siginfo_t info;
    NEED(waitid(P_PID, zombie, &info, WEXITED | WNOWAIT) == 0);
    pid_t self = getpid(), parent = getppid(), group = getpgrp(), session = getsid(0);

    ready();

    VERIFY_EQ(getpid(), self);
    VERIFY_EQ(getppid(), parent);
    VERIFY_EQ(getpgrp(), group);
    VERIFY_EQ(getsid(0), session);
    int status;
    VERIFY_EQ(waitpid(zombie, &status, 0), zombie);
    VERIFY(WIFEXITED(status) && WEXITSTATUS(status) == 77);
    for (int which = PLAIN; which <= OWN_SESSION; which++) {
        VERIFY_EQ(waitpid(pids[which], &status, 0), pids[which]);
        verify(WIFEXITED(status) && WEXITSTATUS(status) == 40 + which, "child %d ended with %x", which, status);
    }
    for (int which = 0; which < MEMBERS; which++) {
        for (int tries = 0; !members[which].verified && tries < 2000; tries++) pause_ms(1);
        verify(members[which].verified, "member %d did not verify itself", which);
    }
    VERIFY_EQ(members[ORPHAN].parent, 1);
    return verified();
}
