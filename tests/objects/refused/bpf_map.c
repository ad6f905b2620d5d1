/* Refused: a BPF map. */
#include "../object.h"
#include <linux/bpf.h>

int main(void) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.map_type = BPF_MAP_TYPE_ARRAY;
    attr.key_size = attr.value_size = 4;
    attr.max_entries = 1;
    int fd = (int)syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr);
    NEED(fd != -1);
    dprintf(1, "REFUSE bpf %d %d\n", getpid(), fd);
    ready();
    return verified();
}
