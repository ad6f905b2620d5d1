//! The only machine code that Ferry ever runs in a task: a loop over records of system calls.
//!
//! It ends by sending a signal to its own thread, which a tracer sees as a stop and takes away. (An `int3` would do too, but
//! it is forced on the task: the kernel resets an ignored or blocked SIGTRAP for the whole process, and a task whose tracer
//! has died meanwhile would be killed by it.) If the tracer is gone when the call returns, the code that follows puts the
//! signal mask and all registers back from an undo block and jumps to where the task was: nothing is lost.
//!
//! Registers on entry: r12 records, r13 how many, r14 process id, r15 thread id, rbx the signal, rbp undo block or 0. None of
//! them is touched by a system call, nor is the stack.
#![allow(unsafe_code)]

use std::arch::global_asm;

global_asm!(
    ".pushsection .rodata.ferry_remote, \"a\"",
    ".balign 16",
    ".globl ferry_remote_start",
    "ferry_remote_start:",
    "2: mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "syscall",
    "mov [r12 + 56], rax",
    "add r12, 64",
    "dec r13",
    "jnz 2b",
    "jmp 3f",
    // One call whose arguments are in the registers already; its result is left in r12.
    ".globl ferry_remote_single",
    "ferry_remote_single:",
    "syscall",
    "mov r12, rax",
    "3: mov edi, r14d",
    "mov esi, r15d",
    "mov edx, ebx",
    "mov eax, 234", // tgkill
    "syscall",
    ".globl ferry_remote_after",
    "ferry_remote_after:",
    "test rbp, rbp",
    "4: jz 4b",
    "mov eax, 14", // rt_sigprocmask(SIG_SETMASK, undo, NULL, 8)
    "mov edi, 2",
    "mov rsi, rbp",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    // flags, rbp and rip go below the red zone of the task's own stack, so that everything else can be loaded first.
    "mov rcx, [rbp + 8 + 19*8]",
    "sub rcx, 152",
    "mov rdx, [rbp + 8 + 18*8]",
    "mov [rcx], rdx",
    "mov rdx, [rbp + 8 + 4*8]",
    "mov [rcx + 8], rdx",
    "mov rdx, [rbp + 8 + 16*8]",
    "mov [rcx + 16], rdx",
    "mov rsp, rcx",
    "mov r15, [rbp + 8]",
    "mov r14, [rbp + 8 + 1*8]",
    "mov r13, [rbp + 8 + 2*8]",
    "mov r12, [rbp + 8 + 3*8]",
    "mov rbx, [rbp + 8 + 5*8]",
    "mov r11, [rbp + 8 + 6*8]",
    "mov r10, [rbp + 8 + 7*8]",
    "mov r9, [rbp + 8 + 8*8]",
    "mov r8, [rbp + 8 + 9*8]",
    "mov rax, [rbp + 8 + 10*8]",
    "mov rcx, [rbp + 8 + 11*8]",
    "mov rdx, [rbp + 8 + 12*8]",
    "mov rsi, [rbp + 8 + 13*8]",
    "mov rdi, [rbp + 8 + 14*8]",
    "popfq",
    "pop rbp",
    "ret 128",
    ".globl ferry_remote_end",
    "ferry_remote_end:",
    ".popsection",
);

unsafe extern "C" {
    static ferry_remote_start: u8;
    static ferry_remote_single: u8;
    static ferry_remote_after: u8;
    static ferry_remote_end: u8;
}

/// The machine code.
#[must_use]
pub fn bytes() -> &'static [u8] {
    // SAFETY: both labels are in the one read-only section above, in this order.
    unsafe {
        let start = &raw const ferry_remote_start;
        std::slice::from_raw_parts(start, (&raw const ferry_remote_end).offset_from(start) as usize)
    }
}

/// Offset of the entry for one call.
#[must_use]
pub fn single() -> u64 {
    offset(&raw const ferry_remote_single)
}

/// Offset of the instruction after the signal: where a task stands when it is done.
#[must_use]
pub fn after() -> u64 {
    offset(&raw const ferry_remote_after)
}

fn offset(label: *const u8) -> u64 {
    label as u64 - (&raw const ferry_remote_start) as u64
}
