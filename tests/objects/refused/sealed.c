/* Refused: memory that its program has sealed (mseal, Linux 6.10). */
#include "../object.h"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

int main(void) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NEED(page != MAP_FAILED && syscall(SYS_mseal, page, 4096, 0) == 0);
    dprintf(1, "REFUSE sealed %d -1\n", getpid());
    ready();
    return verified();
}
