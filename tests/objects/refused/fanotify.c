/* Refused: fanotify. */
#include "../object.h"
#include <sys/fanotify.h>

int main(void) {
    int fd = fanotify_init(FAN_CLASS_NOTIF, O_RDONLY);
    NEED(fd != -1);
    dprintf(1, "REFUSE fanotify %d %d\n", getpid(), fd);
    ready();
    return verified();
}
