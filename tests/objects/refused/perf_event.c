/* Refused: a performance counter. */
#include "../object.h"
#include <linux/perf_event.h>

int main(void) {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK};
    int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
    NEED(fd != -1);
    dprintf(1, "REFUSE perf %d %d\n", getpid(), fd);
    ready();
    return verified();
}
