//! The process that puppets are born under: init of a pid namespace, borrowed for the time of a restore.
//!
//! It is stopped, makes a piece of memory that all its descendants will share with us (records and data of their batches), and
//! bears the first puppets. Like a captured task it is safe against our death: it goes on with its loop.

use super::Error;
use super::{passing, turns};
use ferry_sys::proc::{self, maps, status};
use ferry_sys::process_vm;
use ferry_sys::ptrace::{self, Registers, Stop};
use ferry_sys::remote::machine::undo_block;
use ferry_sys::remote::tail::Tail;
use ferry_sys::remote::{Machine, SharedMemory, Site, Tracee, code};
use ferry_sys::schedule::{self, Affinity};
use rustix::fd::{AsFd, BorrowedFd};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

/// Bytes of the shared memory: address space, of which only what is used is touched.
pub(super) const AREA_BYTES: u64 = 256 << 20;
/// Bytes of the code page at its begin.
pub(super) const CODE_BYTES: u64 = 4096;

/// Init, stopped.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) tracee: Tracee,
    pub(super) site: Site,
    /// Address of the shared memory in init and all its descendants.
    pub(super) area: u64,
    pub(super) memory: SharedMemory,
    registers: Registers,
    mask: u64,
    tail: Tail,
    mem: File,
    /// Descriptors that were passed to it, as it numbers them.
    pub(super) passed: Vec<i32>,
    /// Where it may run, to be given back to it.
    pub(super) home: Affinity,
    /// The processors that this comes to.
    pub(super) processors: Affinity,
}

impl Host {
    /// Stops `pid` and maps the shared memory into it, at a place that is also free in all of `spaces`.
    pub(super) fn borrow(
        pid: i32,
        spaces: &[&[maps::Mapping]],
        machine: &mut Machine,
    ) -> Result<Self, Error> {
        let failed =
            |what: &str| Error::host(format!("{what} process {pid}, under which the tree is rebuilt"));
        ptrace::seize(pid, ptrace::TRACE_SYSGOOD).map_err(failed("trace"))?;
        let result = ptrace::interrupt(pid).and_then(|()| stopped(pid)).map_err(failed("stop"));
        let host = result.and_then(|()| Self::settle(pid, spaces, machine));
        if host.is_err() {
            let _ = ptrace::detach(pid, 0);
        }
        host
    }

    fn settle(pid: i32, spaces: &[&[maps::Mapping]], machine: &mut Machine) -> Result<Self, Error> {
        let failed = |what: &str| Error::host(format!("read {what} of process {pid}"));
        let mut registers = ptrace::registers(pid).map_err(failed("the registers"))?;
        let mut mask = ptrace::signal_mask(pid).map_err(failed("the signal mask"))?;
        let ids = status::read(&pid.to_string()).map_err(failed("the status"))?;
        let own = maps::parse(&proc::read(pid, "maps").map_err(failed("the mappings"))?)
            .map_err(|bad| failed("the mappings")(bad.into()))?;
        let vdso = own
            .iter()
            .find(|mapping| mapping.name == b"[vdso]")
            .ok_or_else(|| Error::unfit(0, "this kernel gives processes no vDSO"))?;
        let mut bytes = vec![0u8; (vdso.end - vdso.start) as usize];
        process_vm::read(pid, vdso.start, &mut bytes).map_err(failed("the vDSO"))?;
        let tail = Tail::find(&bytes, vdso.start)?;
        let read =
            |address: u64, bytes: &mut [u8]| ferry_sys::remote::Reach::Process(pid).read(address, bytes);
        if let Some((repaired, its_mask)) = tail.repair(&registers, read).map_err(failed("an undo block"))? {
            (registers, mask) = (repaired, its_mask.unwrap_or(mask));
        }
        let all: Vec<&[maps::Mapping]> = spaces.iter().copied().chain([own.as_slice()]).collect();
        let area = crate::capture::memory::hole(&all, AREA_BYTES)
            .ok_or_else(|| Error::unfit(0, "no address is free in all of its processes"))?;
        let mem = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map_err(failed("the memory"))?;
        let content = Tail::content((area, AREA_BYTES), &undo_block(&registers, mask));
        mem.write_all_at(&content, tail.base).map_err(failed("the vDSO's end"))?;
        let ns_pid = ids.ns_tgid.last().copied().unwrap_or(pid);
        let tracee = Tracee { tid: pid, ns_pid, ns_tid: ns_pid };
        let site = Site { code: tail.code(), undo: tail.undo(), base: registers };
        if let Some((address, len)) = tail.leftover {
            machine.single(tracee, &site, libc::SYS_munmap, &[address, len])?;
        }
        let memory = map_shared(machine, tracee, &site, area)?;
        let (home, processors) = turns::home(pid).map_err(failed("the affinity"))?;
        let passed = Vec::new();
        let host = Self { tracee, site, area, memory, registers, mask, tail, mem, passed, home, processors };
        host.reach().write(area, code::bytes()).map_err(failed("the shared memory"))?;
        Ok(host)
    }

    /// How the shared memory is written and read.
    pub(super) fn reach(&self) -> ferry_sys::remote::Reach<'_> {
        ferry_sys::remote::Reach::Shared(&self.memory, self.area)
    }

    /// Passes descriptors to init, which its descendants inherit; `passed` tells their numbers there.
    pub(super) fn pass(
        &mut self,
        machine: &mut Machine,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        if descriptors.is_empty() {
            return Ok(());
        }
        let (tracee, site) = (self.tracee, self.site);
        let scratch = self.area + CODE_BYTES;
        let kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as u64;
        machine.must(
            tracee,
            &site,
            "make a socket pair",
            libc::SYS_socketpair,
            &[libc::AF_UNIX as u64, kind, 0, scratch],
        )?;
        let mut pair = [0u8; 8];
        self.reach().read(scratch, &mut pair).map_err(Error::host("read the shared memory"))?;
        let end = |at: usize| i32::from_ne_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
        let socket = passing::take(tracee.tid, end(4))?;
        for part in descriptors.chunks(passing::PER_MESSAGE) {
            passing::send(&socket, part)?;
            // iovec at +64, control at +128, header at +96 is built by hand: one message is not worth a batch.
            let control = scratch + 256;
            let vector = [(scratch + 32).to_ne_bytes(), 1u64.to_ne_bytes()].concat();
            let header = [0, 0, scratch + 64, 1, control, passing::CONTROL_BYTES as u64, 0];
            let header: Vec<u8> = header.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
            self.reach().write(scratch + 64, &vector).map_err(Error::host("write the shared memory"))?;
            self.reach().write(scratch + 128, &header).map_err(Error::host("write the shared memory"))?;
            machine.must(
                tracee,
                &site,
                "receive descriptors",
                libc::SYS_recvmsg,
                &[end(0) as u64, scratch + 128, 0],
            )?;
            let mut answer = vec![0u8; passing::CONTROL_BYTES];
            self.reach().read(control, &mut answer).map_err(Error::host("read the shared memory"))?;
            for number in answer[16..].chunks_exact(4).take(part.len()) {
                self.passed.push(i32::from_ne_bytes([number[0], number[1], number[2], number[3]]));
            }
        }
        for at in [0, 4] {
            machine.must(tracee, &site, "close a socket", libc::SYS_close, &[end(at) as u64])?;
        }
        Ok(())
    }

    /// Takes everything back that init was lent and lets it go on.
    pub(super) fn give_back(mut self, machine: &mut Machine) -> Result<(), Error> {
        for fd in std::mem::take(&mut self.passed) {
            machine.single(self.tracee, &self.site, libc::SYS_close, &[fd as u64])?;
        }
        let unmap = [self.area, AREA_BYTES];
        machine.must(self.tracee, &self.site, "unmap the shared memory", libc::SYS_munmap, &unmap)?;
        self.let_go()
    }

    fn let_go(&self) -> Result<(), Error> {
        let pid = self.tracee.tid;
        let failed =
            |what: &str| Error::host(format!("{what} process {pid}, under which the tree was rebuilt"));
        schedule::set_affinity(pid, &self.home).map_err(failed("resume"))?;
        ptrace::set_registers(pid, &self.registers).map_err(failed("resume"))?;
        ptrace::set_signal_mask(pid, self.mask).map_err(failed("resume"))?;
        self.mem.write_all_at(&vec![0u8; Tail::bytes()], self.tail.base).map_err(failed("clean up"))?;
        ptrace::detach(pid, 0).map_err(failed("let go of"))
    }
}

fn map_shared(machine: &mut Machine, tracee: Tracee, site: &Site, area: u64) -> Result<SharedMemory, Error> {
    const MFD_CLOEXEC: u64 = 1;
    // The name is any text that init has: the begin of the code page would do, an empty one is found in its vDSO's tail.
    let name = site.undo - 8;
    let fd =
        machine.must(tracee, site, "make shared memory", libc::SYS_memfd_create, &[name, MFD_CLOEXEC])?;
    let file = passing::take(tracee.tid, fd as i32)?;
    rustix::fs::ftruncate(&file, AREA_BYTES)
        .map_err(|error| Error::host("size the shared memory")(error.into()))?;
    let memory =
        SharedMemory::map(file.as_fd(), AREA_BYTES as usize).map_err(Error::host("map the shared memory"))?;
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE) as u64;
    let (read, write, execute) = (libc::PROT_READ as u64, libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
    let code = [area, CODE_BYTES, read | execute, flags, fd, 0];
    machine.must(tracee, site, "map the code of remote calls", libc::SYS_mmap, &code)?;
    let data = [area + CODE_BYTES, AREA_BYTES - CODE_BYTES, read | write, flags, fd, CODE_BYTES];
    machine.must(tracee, site, "map the memory of remote calls", libc::SYS_mmap, &data)?;
    machine.must(tracee, site, "close a descriptor", libc::SYS_close, &[fd])?;
    Ok(memory)
}

/// Waits for the stop that was asked for.
pub(super) fn stopped(tid: i32) -> std::io::Result<()> {
    loop {
        match ptrace::wait(tid)? {
            Stop::Event { .. } => return Ok(()),
            Stop::Signal(signal) => ptrace::cont(tid, signal)?,
            Stop::Call | Stop::Other(_) => ptrace::cont(tid, 0)?,
            Stop::Gone(_) => return Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }
}
