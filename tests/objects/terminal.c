/* A pseudo-terminal of the workload's own: a session with it as controlling terminal, a foreground group, changed settings, a
 * window size, input typed and not read, output written and not read. Verified: all, and that ^C still reaches the group. */
#include "object.h"
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

static volatile sig_atomic_t interrupted;
static void handler(int signal) { (void)signal; interrupted = 1; }

int main(void) {
    int master, slave;
    char text[64];
    struct winsize size = {33, 101, 0, 0}, size_now;
    struct termios settings, now;
    NEED(openpty(&master, &slave, NULL, NULL, &size) == 0);
    NEED(tcgetattr(slave, &settings) == 0);
    settings.c_lflag &= ~(tcflag_t)ECHO;
    settings.c_cc[VEOF] = 7;
    settings.c_oflag &= ~(tcflag_t)OPOST;
    NEED(tcsetattr(slave, TCSANOW, &settings) == 0);
    volatile int *step = shared_page();
    pid_t leader = fork();
    if (leader == 0) {
        close(master);
        NEED(setsid() != -1 && ioctl(slave, TIOCSCTTY, 0) == 0);
        pid_t job = fork();
        if (job == 0) {
            NEED(setpgid(0, 0) == 0);
            signal(SIGTTOU, SIG_IGN);
            NEED(tcsetpgrp(slave, getpid()) == 0);
            struct sigaction action = {.sa_handler = handler};
            sigaction(SIGINT, &action, NULL);
            step[0] = 1;
            while (!step[1]) pause_ms(1);
            int terminal = open("/dev/tty", O_RDWR);
            VERIFY(terminal != -1);
            VERIFY_EQ(tcgetpgrp(terminal), getpid());
            VERIFY_EQ(tcgetsid(terminal), getppid());
            step[0] = 2;
            for (int tries = 0; !interrupted && tries < 5000; tries++) pause_ms(1);
            VERIFY(interrupted);
            _exit(5);
        }
        int status;
        VERIFY(waitpid(job, &status, 0) == job);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
    }
    while (!step[0]) pause_ms(1);
    NEED(write(master, "typed ahead\nand half a li", 25) == 25);
    NEED(write(slave, "not read yet\n", 13) == 13);

    ready();

    VERIFY(tcgetattr(slave, &now) == 0);
    VERIFY(now.c_lflag == settings.c_lflag && now.c_iflag == settings.c_iflag && now.c_oflag == settings.c_oflag);
    VERIFY(now.c_cflag == settings.c_cflag && !memcmp(now.c_cc, settings.c_cc, sizeof now.c_cc));
    VERIFY(ioctl(master, TIOCGWINSZ, &size_now) == 0 && size_now.ws_row == 33 && size_now.ws_col == 101);
    VERIFY(ioctl(slave, TIOCGWINSZ, &size_now) == 0 && size_now.ws_row == 33);
    VERIFY(isatty(slave) && ptsname(master) != NULL);
    VERIFY(read(master, text, sizeof text) == 13 && !memcmp(text, "not read yet\n", 13));
    step[1] = 1;
    while (step[0] != 2) {
        VERIFY(waitpid(leader, NULL, WNOHANG) == 0);
        pause_ms(1);
    }
    /* Read by the master's side only: the line discipline holds the complete line for whoever reads the slave. The reader must be in
     * the foreground group or ignore SIGTTIN; this process has no controlling terminal, so it may. */
    VERIFY(read(slave, text, sizeof text) == 12 && !memcmp(text, "typed ahead\n", 12));
    VERIFY(write(master, "ne\n", 3) == 3);
    VERIFY(read(slave, text, sizeof text) == 16 && !memcmp(text, "and half a line\n", 16));
    VERIFY(write(master, "\003", 1) == 1);
    int status;
    VERIFY(waitpid(leader, &status, 0) == leader && WIFEXITED(status));
    VERIFY_EQ(WEXITSTATUS(status), 5);
    return verified();
}
