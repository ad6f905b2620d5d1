/* Refused: a seccomp filter, which makes getpriority() fail with a number of its own and must not be lost. */
#include "../object.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>

int main(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpriority, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    NEED(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
    errno = 0;
    NEED(getpriority(PRIO_PROCESS, 0) == -1 && errno == 77);

    dprintf(1, "REFUSE seccomp %d -1\n", getpid());
    ready();

    errno = 0;
    VERIFY(getpriority(PRIO_PROCESS, 0) == -1);
    VERIFY_EQ(errno, 77);
    VERIFY_EQ(prctl(PR_GET_SECCOMP), SECCOMP_MODE_FILTER);
    return verified();
}
