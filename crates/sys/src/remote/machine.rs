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
        let registers = self.batch(tracee, site, records, count);
        self.go(tracee, &registers)
    }

    fn batch(&mut self, tracee: Tracee, site: &Site, records: u64, count: usize) -> Registers {
        let mut registers = self.entry(tracee, site);
        registers.rip = site.code;
        registers.r12 = records;
        registers.r13 = count as u64;
        self.stats.calls += count as u64;
        self.stats.batches += 1;
        registers
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

    fn go(&mut self, tracee: Tracee, registers: &Registers) -> Result<(), Error> {
        self.set(tracee, registers)?;
        ptrace::cont(tracee.tid, 0).map_err(|source| Error::Trace { tid: tracee.tid, source })
    }

    /// Registers before mask: if we are killed between the two, the code puts the mask (unchanged) and the registers back.
    fn set(&mut self, tracee: Tracee, registers: &Registers) -> Result<(), Error> {
        let failed = |source| Error::Trace { tid: tracee.tid, source };
        ptrace::set_registers(tracee.tid, registers).map_err(failed)?;
        ptrace::set_signal_mask(tracee.tid, self.mask()).map_err(failed)
    }

    /// Runs `count` records, and calls `look` with what the first call returned as soon as it has: what it made can be looked at before the
    /// next call undoes it. If this process dies meanwhile, the thread runs the rest by itself.
    ///
    /// # Errors
    /// When it died or took a fault.
    pub fn run_with_a_look<T>(
        &mut self,
        tracee: Tracee,
        site: &Site,
        records: u64,
        count: usize,
        look: impl FnOnce(i64) -> T,
    ) -> Result<T, Error> {
        let failed = |source| Error::Trace { tid: tracee.tid, source };
        let registers = self.batch(tracee, site, records, count);
        self.set(tracee, &registers)?;
        // One stop at the entry, one at the exit.
        let mut stops = 0;
        while stops < 2 {
            ptrace::to_call(tracee.tid).map_err(failed)?;
            match ptrace::wait(tracee.tid).map_err(failed)? {
                Stop::Call => stops += 1,
                Stop::Signal(signal) => self.hold(tracee, signal)?,
                Stop::Gone(status) => return Err(Error::Gone { tid: tracee.tid, status }),
                Stop::Event { .. } | Stop::Other(_) => {}
            }
        }
        let seen = look(ptrace::registers(tracee.tid).map_err(failed)?.rax as i64);
        ptrace::cont(tracee.tid, 0).map_err(failed)?;
        self.finish(tracee, site).map(|_| seen)
    }

    /// Keeps a signal that came in the middle of a program. One that the program itself has caused is an error.
    fn hold(&mut self, tracee: Tracee, signal: i32) -> Result<(), Error> {
        let failed = |source| Error::Trace { tid: tracee.tid, source };
        let info = ptrace::signal_info(tracee.tid).map_err(failed)?;
        let code = i32::from_ne_bytes([info[8], info[9], info[10], info[11]]);
        let fault = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];
        if code > 0 && fault.contains(&signal) {
            let at = ptrace::registers(tracee.tid).map_err(failed)?.rip;
            return Err(Error::Fault { tid: tracee.tid, signal, at });
        }
        self.held.push((tracee.tid, info));
        Ok(())
    }

    /// Lets a thread finish what an earlier tracer has set it off on; returns its registers then.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn finish_for_another(
        &mut self,
        tracee: Tracee,
        code: u64,
        registers: &Registers,
    ) -> Result<Registers, Error> {
        let site = Site { code, undo: 0, base: *registers };
        // By which signal it ends, that tracer chose.
        let own = std::mem::replace(&mut self.signal, registers.rbx as i32);
        let finished = ptrace::cont(tracee.tid, 0)
            .map_err(|source| Error::Trace { tid: tracee.tid, source })
            .and_then(|()| self.finish(tracee, &site));
        self.signal = own;
        finished
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
                    self.hold(tracee, signal)?;
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
