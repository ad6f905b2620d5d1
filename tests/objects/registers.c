/* A thread that spins with every general, x87, SSE and (where there is) AVX and AVX-512 register full, and with rounding modes
 * of its own; two threads, so that values cannot be exchanged unnoticed. Verified: every bit. */
#include "object.h"

static volatile int go;

struct image { _Alignas(64) uint8_t vectors[16][64]; uint32_t mxcsr; uint16_t x87; double x87_value; };

static int width;

static void *spin(void *arg) {
    uint64_t seed = (uintptr_t)arg;
    static _Thread_local struct image in, out;
    fill(in.vectors, sizeof in.vectors, seed);
    in.mxcsr = 0x1f80 | (unsigned)(seed & 3) << 13;
    in.x87 = (uint16_t)(0x037f | (seed & 3) << 10);
    double value = 1.0 / (double)(seed + 3);
    __asm__ volatile("ldmxcsr %0\n\tfldcw %1\n\tfldl %2" : : "m"(in.mxcsr), "m"(in.x87), "m"(value));
    struct image *from = &in, *to = &out;
    volatile int *flag = &go;
    if (width == 64) {
        __asm__ volatile(
            "vmovdqu64 0(%[f]), %%zmm0\n\tvmovdqu64 64(%[f]), %%zmm1\n\tvmovdqu64 128(%[f]), %%zmm2\n\tvmovdqu64 192(%[f]), %%zmm3\n\t"
            "vmovdqu64 256(%[f]), %%zmm4\n\tvmovdqu64 320(%[f]), %%zmm5\n\tvmovdqu64 384(%[f]), %%zmm6\n\tvmovdqu64 448(%[f]), %%zmm7\n\t"
            "vmovdqu64 512(%[f]), %%zmm16\n\tvmovdqu64 576(%[f]), %%zmm17\n\tvmovdqu64 640(%[f]), %%zmm18\n\tvmovdqu64 704(%[f]), %%zmm19\n\t"
            "vmovdqu64 768(%[f]), %%zmm28\n\tvmovdqu64 832(%[f]), %%zmm29\n\tvmovdqu64 896(%[f]), %%zmm30\n\tvmovdqu64 960(%[f]), %%zmm31\n\t"
            "1: cmpl $0, (%[g])\n\tje 1b\n\t"
            "vmovdqu64 %%zmm0, 0(%[t])\n\tvmovdqu64 %%zmm1, 64(%[t])\n\tvmovdqu64 %%zmm2, 128(%[t])\n\tvmovdqu64 %%zmm3, 192(%[t])\n\t"
            "vmovdqu64 %%zmm4, 256(%[t])\n\tvmovdqu64 %%zmm5, 320(%[t])\n\tvmovdqu64 %%zmm6, 384(%[t])\n\tvmovdqu64 %%zmm7, 448(%[t])\n\t"
            "vmovdqu64 %%zmm16, 512(%[t])\n\tvmovdqu64 %%zmm17, 576(%[t])\n\tvmovdqu64 %%zmm18, 640(%[t])\n\tvmovdqu64 %%zmm19, 704(%[t])\n\t"
            "vmovdqu64 %%zmm28, 768(%[t])\n\tvmovdqu64 %%zmm29, 832(%[t])\n\tvmovdqu64 %%zmm30, 896(%[t])\n\tvmovdqu64 %%zmm31, 960(%[t])\n\t"
            : : [f] "r"(from), [t] "r"(to), [g] "r"(flag) : "memory");
    } else if (width == 32) {
        __asm__ volatile(
            "vmovdqu 0(%[f]), %%ymm0\n\tvmovdqu 64(%[f]), %%ymm1\n\tvmovdqu 128(%[f]), %%ymm2\n\tvmovdqu 192(%[f]), %%ymm3\n\t"
            "vmovdqu 256(%[f]), %%ymm4\n\tvmovdqu 320(%[f]), %%ymm5\n\tvmovdqu 384(%[f]), %%ymm6\n\tvmovdqu 448(%[f]), %%ymm7\n\t"
            "vmovdqu 512(%[f]), %%ymm8\n\tvmovdqu 576(%[f]), %%ymm9\n\tvmovdqu 640(%[f]), %%ymm10\n\tvmovdqu 704(%[f]), %%ymm11\n\t"
            "vmovdqu 768(%[f]), %%ymm12\n\tvmovdqu 832(%[f]), %%ymm13\n\tvmovdqu 896(%[f]), %%ymm14\n\tvmovdqu 960(%[f]), %%ymm15\n\t"
            "1: cmpl $0, (%[g])\n\tje 1b\n\t"
            "vmovdqu %%ymm0, 0(%[t])\n\tvmovdqu %%ymm1, 64(%[t])\n\tvmovdqu %%ymm2, 128(%[t])\n\tvmovdqu %%ymm3, 192(%[t])\n\t"
            "vmovdqu %%ymm4, 256(%[t])\n\tvmovdqu %%ymm5, 320(%[t])\n\tvmovdqu %%ymm6, 384(%[t])\n\tvmovdqu %%ymm7, 448(%[t])\n\t"
            "vmovdqu %%ymm8, 512(%[t])\n\tvmovdqu %%ymm9, 576(%[t])\n\tvmovdqu %%ymm10, 640(%[t])\n\tvmovdqu %%ymm11, 704(%[t])\n\t"
            "vmovdqu %%ymm12, 768(%[t])\n\tvmovdqu %%ymm13, 832(%[t])\n\tvmovdqu %%ymm14, 896(%[t])\n\tvmovdqu %%ymm15, 960(%[t])\n\t"
            : : [f] "r"(from), [t] "r"(to), [g] "r"(flag) : "memory");
    } else {
        __asm__ volatile(
            "movdqu 0(%[f]), %%xmm0\n\tmovdqu 64(%[f]), %%xmm1\n\tmovdqu 128(%[f]), %%xmm2\n\tmovdqu 192(%[f]), %%xmm3\n\t"
            "movdqu 256(%[f]), %%xmm4\n\tmovdqu 320(%[f]), %%xmm5\n\tmovdqu 384(%[f]), %%xmm6\n\tmovdqu 448(%[f]), %%xmm7\n\t"
            "movdqu 512(%[f]), %%xmm8\n\tmovdqu 576(%[f]), %%xmm9\n\tmovdqu 640(%[f]), %%xmm10\n\tmovdqu 704(%[f]), %%xmm11\n\t"
            "movdqu 768(%[f]), %%xmm12\n\tmovdqu 832(%[f]), %%xmm13\n\tmovdqu 896(%[f]), %%xmm14\n\tmovdqu 960(%[f]), %%xmm15\n\t"
            "1: cmpl $0, (%[g])\n\tje 1b\n\t"
            "movdqu %%xmm0, 0(%[t])\n\tmovdqu %%xmm1, 64(%[t])\n\tmovdqu %%xmm2, 128(%[t])\n\tmovdqu %%xmm3, 192(%[t])\n\t"
            "movdqu %%xmm4, 256(%[t])\n\tmovdqu %%xmm5, 320(%[t])\n\tmovdqu %%xmm6, 384(%[t])\n\tmovdqu %%xmm7, 448(%[t])\n\t"
            "movdqu %%xmm8, 512(%[t])\n\tmovdqu %%xmm9, 576(%[t])\n\tmovdqu %%xmm10, 640(%[t])\n\tmovdqu %%xmm11, 704(%[t])\n\t"
            "movdqu %%xmm12, 768(%[t])\n\tmovdqu %%xmm13, 832(%[t])\n\tmovdqu %%xmm14, 896(%[t])\n\tmovdqu %%xmm15, 960(%[t])\n\t"
            : : [f] "r"(from), [t] "r"(to), [g] "r"(flag)
            : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
              "xmm13", "xmm14", "xmm15");
    }
    __asm__ volatile("stmxcsr %0\n\tfnstcw %1\n\tfstpl %2" : "=m"(out.mxcsr), "=m"(out.x87), "=m"(out.x87_value));
    for (int i = 0; i < 16; i++) verify(memcmp(in.vectors[i], out.vectors[i], (size_t)width) == 0, "vector register %d of %u", i, (unsigned)seed);
    /* The low six bits of MXCSR are sticky exception flags, which the comparison itself must not depend on. */
    VERIFY_EQ(out.mxcsr & ~0x3fu, in.mxcsr & ~0x3fu);
    VERIFY_EQ(out.x87, in.x87);
    VERIFY(out.x87_value == value);
    return NULL;
}

/* Spins with general registers full, and with the direction and carry flags set. */
static void *spin_general(void *arg) {
    uint64_t seed = (uintptr_t)arg, wanted[6], got[7];
    fill(wanted, sizeof wanted, seed);
    /* jrcxz looks at rcx and leaves the flags alone. */
    __asm__ volatile(
        "mov 0(%[w]), %%r8\n\tmov 8(%[w]), %%r9\n\tmov 16(%[w]), %%r12\n\tmov 24(%[w]), %%r13\n\tmov 32(%[w]), %%r14\n\t"
        "mov 40(%[w]), %%r15\n\tstd\n\tstc\n\t"
        "1: movl (%[g]), %%ecx\n\tjrcxz 1b\n\t"
        "pushfq\n\tpopq %%rcx\n\tcld\n\t"
        "mov %%r8, 0(%[o])\n\tmov %%r9, 8(%[o])\n\tmov %%r12, 16(%[o])\n\tmov %%r13, 24(%[o])\n\tmov %%r14, 32(%[o])\n\t"
        "mov %%r15, 40(%[o])\n\tmov %%rcx, 48(%[o])\n\t"
        : : [w] "r"(wanted), [o] "r"(got), [g] "r"(&go)
        : "rcx", "r8", "r9", "r12", "r13", "r14", "r15", "memory", "cc");
    for (int i = 0; i < 6; i++) verify(got[i] == wanted[i], "general register %d", i);
    VERIFY_EQ(got[6] & 0x401, 0x401);
    return NULL;
}

int main(void) {
    width = __builtin_cpu_supports("avx512f") ? 64 : __builtin_cpu_supports("avx2") ? 32 : 16;
    pthread_t threads[3];
    for (uintptr_t i = 0; i < 2; i++) NEED(pthread_create(&threads[i], NULL, spin, (void *)(i + 1)) == 0);
    NEED(pthread_create(&threads[2], NULL, spin_general, (void *)9) == 0);
    pause_ms(50);

    ready();

    go = 1;
    for (int i = 0; i < 3; i++) VERIFY(pthread_join(threads[i], NULL) == 0);
    return verified();
}
