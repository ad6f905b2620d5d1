//! ptrace(2), for tracers that SEIZE: registers, extended state, signal masks and queues, stops.
//!
//! An attachment belongs to the thread that made it: all of this is called from one thread. Every function takes the
//! thread's id as this process sees it and gives the kernel's error; `ESRCH` means that the thread is gone or not stopped.
#![allow(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

/// `user_regs_struct`: 27 words in the kernel's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

impl Registers {
    /// Number of words.
    pub const WORDS: usize = 27;

    /// As words, in the kernel's order.
    #[must_use]
    pub fn to_words(&self) -> [u64; Self::WORDS] {
        // SAFETY: `repr(C)` of exactly 27 words without padding.
        unsafe { std::mem::transmute(*self) }
    }

    /// From words, in the kernel's order.
    #[must_use]
    pub fn from_words(words: [u64; Self::WORDS]) -> Self {
        // SAFETY: `repr(C)` of exactly 27 words; every bit pattern is a value.
        unsafe { std::mem::transmute(words) }
    }

    /// As the bytes that a `user_regs_struct` has.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::WORDS * 8] {
        // SAFETY: as `to_words`.
        unsafe { std::mem::transmute(*self) }
    }
}

/// `struct ptrace_rseq_configuration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RseqConfiguration {
    /// Address of the area; 0: none is registered.
    pub address: u64,
    /// Its size.
    pub size: u32,
    /// Signature.
    pub signature: u32,
    /// Flags.
    pub flags: u32,
    pad: u32,
}

/// How a wait for a tracee ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// PTRACE_EVENT_STOP: interrupted, newly attached, or in a group stop by `signal` (SIGTRAP: not a group stop).
    Event {
        /// SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU in a group stop, else SIGTRAP.
        signal: i32,
    },
    /// About to take `signal`.
    Signal(i32),
    /// At entry or exit of a system call.
    Call,
    /// Another PTRACE_EVENT.
    Other(i32),
    /// It ended with this wait status.
    Gone(i32),
}

/// PTRACE_O_TRACESYSGOOD.
pub const TRACE_SYSGOOD: u64 = 1;
/// PTRACE_O_EXITKILL: the tracee dies with its tracer.
pub const EXIT_KILL: u64 = 1 << 20;
/// PTRACE_O_SUSPEND_SECCOMP: filters do not apply while it is traced.
pub const SUSPEND_SECCOMP: u64 = 1 << 21;

const SETOPTIONS: u32 = 0x4200;
const SEIZE: u32 = 0x4206;
const INTERRUPT: u32 = 0x4207;
const PEEKSIGINFO: u32 = 0x4209;
const GETSIGMASK: u32 = 0x420a;
const SETSIGMASK: u32 = 0x420b;
const GET_RSEQ_CONFIGURATION: u32 = 0x420f;
const NT_PRSTATUS: usize = 1;
const NT_X86_XSTATE: usize = 0x202;
const EVENT_STOP: i32 = 128;
/// Room for the extended state of most processors: with AVX-512 it is 2.7 KiB.
const EXTENDED_BYTES: usize = 4 << 10;
/// Largest extended state that is read: AMX tiles included it is about 11 KiB.
const EXTENDED_BYTES_MAX: usize = 64 << 10;

fn request(request: u32, tid: i32, address: usize, data: usize) -> io::Result<i64> {
    // SAFETY: the callers of this private function pass addresses of live, large enough buffers where the request wants any.
    match unsafe { libc::ptrace(request, tid, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Attaches without stopping.
pub fn seize(tid: i32, options: u64) -> io::Result<()> {
    request(SEIZE, tid, 0, options as usize).map(drop)
}

/// Changes the options of a stopped thread.
pub fn set_options(tid: i32, options: u64) -> io::Result<()> {
    request(SETOPTIONS, tid, 0, options as usize).map(drop)
}

/// Asks a seized thread to stop with [`Stop::Event`].
pub fn interrupt(tid: i32) -> io::Result<()> {
    request(INTERRUPT, tid, 0, 0).map(drop)
}

/// Lets it run, taking `signal` (0: none).
pub fn cont(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// Lets it run to the next entry or exit of a system call.
pub fn to_call(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, 0).map(drop)
}

/// Ends the attachment; it runs on, taking `signal` (0: none).
pub fn detach(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, signal as usize).map(drop)
}

/// Reads the general registers.
pub fn registers(tid: i32) -> io::Result<Registers> {
    let mut registers = Registers::default();
    let vector = libc::iovec { iov_base: (&raw mut registers).cast(), iov_len: size_of::<Registers>() };
    request(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS, &raw const vector as usize)?;
    Ok(registers)
}

/// Writes the general registers.
pub fn set_registers(tid: i32, registers: &Registers) -> io::Result<()> {
    let vector = libc::iovec {
        iov_base: std::ptr::from_ref(registers).cast_mut().cast(),
        iov_len: size_of::<Registers>(),
    };
    request(libc::PTRACE_SETREGSET, tid, NT_PRSTATUS, &raw const vector as usize).map(drop)
}

/// Reads the XSAVE area: x87, SSE, AVX and what else the processor has.
pub fn extended(tid: i32) -> io::Result<Vec<u8>> {
    let mut room = EXTENDED_BYTES;
    loop {
        let mut bytes = vec![0u8; room];
        let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        request(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE, &raw mut vector as usize)?;
        // The kernel fills what there is, and says nothing of what had no room.
        if vector.iov_len < room || room == EXTENDED_BYTES_MAX {
            bytes.truncate(vector.iov_len);
            return Ok(bytes);
        }
        room = EXTENDED_BYTES_MAX;
    }
}

/// Writes the XSAVE area. `EINVAL` or `EFAULT` if the processor's format is another.
pub fn set_extended(tid: i32, bytes: &[u8]) -> io::Result<()> {
    let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    request(libc::PTRACE_SETREGSET, tid, NT_X86_XSTATE, &raw const vector as usize).map(drop)
}

/// Reads the mask of blocked signals.
pub fn signal_mask(tid: i32) -> io::Result<u64> {
    let mut mask = 0u64;
    request(GETSIGMASK, tid, 8, &raw mut mask as usize)?;
    Ok(mask)
}

/// Sets the mask of blocked signals.
pub fn set_signal_mask(tid: i32, mask: u64) -> io::Result<()> {
    request(SETSIGMASK, tid, 8, &raw const mask as usize).map(drop)
}

/// The signal that a thread in [`Stop::Signal`] is about to take: a `siginfo_t` of 128 bytes.
pub fn signal_info(tid: i32) -> io::Result<[u8; 128]> {
    let mut info = [0u8; 128];
    request(libc::PTRACE_GETSIGINFO, tid, 0, info.as_mut_ptr() as usize)?;
    Ok(info)
}

/// All pending signals in the order in which they came, each a `siginfo_t` of 128 bytes: the thread's own, or the process'.
pub fn pending(tid: i32, shared: bool) -> io::Result<Vec<[u8; 128]>> {
    #[repr(C)]
    struct Arguments {
        offset: u64,
        flags: u32,
        count: i32,
    }
    const AT_ONCE: usize = 32;
    let mut all = Vec::new();
    loop {
        let arguments =
            Arguments { offset: all.len() as u64, flags: u32::from(shared), count: AT_ONCE as i32 };
        let mut some = [[0u8; 128]; AT_ONCE];
        let count =
            request(PEEKSIGINFO, tid, &raw const arguments as usize, some.as_mut_ptr() as usize)? as usize;
        all.extend_from_slice(&some[..count.min(AT_ONCE)]);
        if count < AT_ONCE {
            return Ok(all);
        }
    }
}

/// The registered restartable-sequence area. `None` when there is none.
pub fn rseq(tid: i32) -> io::Result<Option<RseqConfiguration>> {
    let mut configuration = RseqConfiguration::default();
    request(GET_RSEQ_CONFIGURATION, tid, size_of::<RseqConfiguration>(), &raw mut configuration as usize)?;
    Ok((configuration.address != 0).then_some(configuration))
}

/// How long to look for a stop before sleeping: one that comes at all soon comes within some ten microseconds, or some hundred where
/// its processor sleeps. Whoever sleeps meanwhile lets a second one go to sleep.
const LOOK_BEFORE_SLEEP: Duration = Duration::from_micros(200);

/// Waits for the next stop or the end of one thread.
pub fn wait(tid: i32) -> io::Result<Stop> {
    // A tracee on the same processor runs when this thread sleeps. It never yields: on a busy machine that would let everybody else run.
    if !crate::schedule::stays()
        && let Some(stop) = look(tid, LOOK_BEFORE_SLEEP)?
    {
        return Ok(stop);
    }
    loop {
        if let Some(stop) = wait_with(tid, 0)? {
            return Ok(stop);
        }
    }
}

/// Looks for the next stop for so long, without sleeping.
pub fn look(tid: i32, time_max: Duration) -> io::Result<Option<Stop>> {
    let begin = Instant::now();
    loop {
        let stop = poll(tid)?;
        if stop.is_some() || begin.elapsed() > time_max {
            return Ok(stop);
        }
        std::hint::spin_loop();
    }
}

/// As [`wait`], without blocking.
pub fn poll(tid: i32) -> io::Result<Option<Stop>> {
    wait_with(tid, libc::WNOHANG)
}

fn wait_with(tid: i32, options: i32) -> io::Result<Option<Stop>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | options) } {
        -1 => {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted { Ok(None) } else { Err(error) }
        }
        0 => Ok(None),
        _ => Ok(Some(decode(status))),
    }
}

fn decode(status: i32) -> Stop {
    if !libc::WIFSTOPPED(status) {
        return Stop::Gone(status);
    }
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Stop::Call,
        0 => Stop::Signal(signal),
        EVENT_STOP => Stop::Event { signal },
        event => Stop::Other(event),
    }
}

/// The robust futex list of a thread: head and length.
pub fn robust_list(tid: i32) -> io::Result<(u64, u64)> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: the kernel writes one word to each of the two live variables.
    let result = unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) };
    if result == 0 { Ok((head, len)) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to one thread of a process.
pub fn send_to_thread(pid: i32, tid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    match unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal to a process.
pub fn send(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
