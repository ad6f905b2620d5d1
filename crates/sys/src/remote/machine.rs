//! Running programs in stopped tasks: set off, wait, count.

use super::code;
use super::{CallFailed, Error};
use crate::ptrace::{self, Registers, Stop};

/// A thread that is stopped under ptrace, with its ids inside and outside of its pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracee {
    /// Thread id as this process sees it.
    pub tid: i32,
    /// Process id as the thread sees it.
    pub ns_pid: i32,
    /// Thread id as the thread sees it.
    pub ns_tid: i32,
}

/// Counters of what was run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// System calls in batches.
    pub calls: u64,
    /// Batches.
    pub batches: u64,
    /// Calls that were made alone.
    pub lone: u64,
}

/// Where and how a thread runs remote calls.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Address of the machine code in the task.
    pub code: u64,
    /// Address of the undo block, or 0 for puppets, which die with their tracer.
    pub undo: u64,
    /// Registers to start from: only segments and flags of them matter.
    pub base: Registers,
}

/// Bytes of an undo block: mask and registers.
pub const UNDO_BYTES: usize = 8 + Registers::WORDS * 8;

/// Runs programs, and keeps what came in between.
#[derive(Debug)]
pub struct Machine {
    /// Counters.
    pub stats: Stats,
    /// Signals that arrived during a program and were taken out: thread, `siginfo_t`. They are to be given back.
    pub held: Vec<(i32, [u8; 128])>,
    /// The signal by which a program ends. One that is ignored by default.
    pub signal: i32,
}

impl Default for Machine {
    fn default() -> Self {
        Self { stats: Stats::default(), held: Vec::new(), signal: libc::SIGURG }
    }
}

/// The undo block of a thread: what puts it back to `registers` and `mask` if the tracer dies.
#[must_use]
pub fn undo_block(registers: &Registers, mask: u64) -> [u8; UNDO_BYTES] {
    let mut block = [0u8; UNDO_BYTES];
    block[..8].copy_from_slice(&mask.to_ne_bytes());
    block[8..].copy_from_slice(&as_if_resumed(registers).to_bytes());
    block
}

/// What the kernel would make of `registers` when the task goes on with no signal to take: interrupted calls begin again.
#[must_use]
pub fn as_if_resumed(registers: &Registers) -> Registers {
    let mut resumed = *registers;
    if (resumed.orig_rax as i64) >= 0 {
        match resumed.rax as i64 {
            -514..=-512 => {
                resumed.rax = resumed.orig_rax;
                resumed.rip -= 2;
            }
            -516 => {
                resumed.rax = libc::SYS_restart_syscall as u64;
                resumed.rip -= 2;
            }
            _ => {}
        }
    }
    resumed
}

impl Machine {
    fn mask(&self) -> u64 {
        !(1u64 << (self.signal - 1))
    }

    /// Sets a thread off on `count` records at address `records`.
    ///
    /// # Errors
    /// When the thread is gone or not stopped.
    pub fn start(&mut self, tracee: Tracee, site: &Site, records: u64, count: usize) -> Result<(), Error> {
        let mut registers = self.entry(tracee, site);
        registers.rip = site.code;
        registers.r12 = records;
        registers.r13 = count as u64;
        self.stats.calls += count as u64;
        self.stats.batches += 1;
        self.go(tracee, &registers)
    }

    /// Runs one call whose arguments fit in registers; returns what it returned.
    ///
    /// # Errors
    /// When the thread is gone. A failed call is no error here.
    pub fn single(&mut self, tracee: Tracee, site: &Site, nr: i64, args: &[u64]) -> Result<i64, Error> {
        self.set_off(tracee, site, nr, args)?;
        Ok(self.finish(tracee, site)?.r12 as i64)
    }

    /// Sets a thread off on one call and does not wait: for calls that do not return.
    ///
    /// # Errors
    /// When the thread is gone or not stopped.
    pub fn set_off(&mut self, tracee: Tracee, site: &Site, nr: i64, args: &[u64]) -> Result<(), Error> {
        let mut registers = self.entry(tracee, site);
        let mut six = [0u64; 6];
        six.iter_mut().zip(args).for_each(|(place, value)| *place = *value);
        registers.rip = site.code + code::single();
        registers.rax = nr as u64;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = six;
        self.stats.lone += 1;
        self.go(tracee, &registers)
    }

    /// As [`Machine::single`]; a failed call is an error that says what it was to do.
    ///
    /// # Errors
    /// When the thread is gone or the call fails.
    pub fn must(
        &mut self,
        tracee: Tracee,
        site: &Site,
        what: &str,
        nr: i64,
        args: &[u64],
    ) -> Result<u64, Error> {
        match self.single(tracee, site, nr, args)? {
            result @ -4095..0 => Err(Error::Call(CallFailed {
                what: what.to_owned(),
                source: std::io::Error::from_raw_os_error(-result as i32),
            })),
            result => Ok(result as u64),
        }
    }

    fn entry(&self, tracee: Tracee, site: &Site) -> Registers {
        let mut registers = site.base;
        registers.orig_rax = u64::MAX;
        registers.eflags &= !0x500; // neither trap nor direction flag
        registers.r14 = tracee.ns_pid as u64;
        registers.r15 = tracee.ns_tid as u64;
        registers.rbx = self.signal as u64;
        registers.rbp = site.undo;
        registers
    }

    /// Registers before mask: if we are killed between the two, the code puts the mask (unchanged) and the registers back.
    fn go(&mut self, tracee: Tracee, registers: &Registers) -> Result<(), Error> {
        let failed = |source| Error::Trace { tid: tracee.tid, source };
        ptrace::set_registers(tracee.tid, registers).map_err(failed)?;
        ptrace::set_signal_mask(tracee.tid, self.mask()).map_err(failed)?;
        ptrace::cont(tracee.tid, 0).map_err(failed)
    }

    /// Waits until a thread has done what it was set off on; returns its registers then.
    ///
    /// # Errors
    /// When it died or took a fault.
    pub fn finish(&mut self, tracee: Tracee, site: &Site) -> Result<Registers, Error> {
        let failed = |source| Error::Trace { tid: tracee.tid, source };
        loop {
            match ptrace::wait(tracee.tid).map_err(failed)? {
                Stop::Signal(signal) => {
                    let registers = ptrace::registers(tracee.tid).map_err(failed)?;
                    if signal == self.signal && registers.rip == site.code + code::after() {
                        return Ok(registers);
                    }
                    let info = ptrace::signal_info(tracee.tid).map_err(failed)?;
                    let code = i32::from_ne_bytes([info[8], info[9], info[10], info[11]]);
                    let fault = [
                        libc::SIGSEGV,
                        libc::SIGBUS,
                        libc::SIGILL,
                        libc::SIGFPE,
                        libc::SIGTRAP,
                        libc::SIGSYS,
                    ];
                    if code > 0 && fault.contains(&signal) {
                        return Err(Error::Fault { tid: tracee.tid, signal, at: registers.rip });
                    }
                    self.held.push((tracee.tid, info));
                    ptrace::cont(tracee.tid, 0).map_err(failed)?;
                }
                Stop::Gone(status) => return Err(Error::Gone { tid: tracee.tid, status }),
                Stop::Event { .. } | Stop::Call | Stop::Other(_) => {
                    ptrace::cont(tracee.tid, 0).map_err(failed)?;
                }
            }
        }
    }
}
