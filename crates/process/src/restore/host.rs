//! The process that puppets are born under: init of a pid namespace, borrowed for the time of a restore.
//!
//! It is stopped, makes a piece of memory that all its descendants will share with us (records and data of their batches), and
//! bears the first puppets. Like a captured task it is safe against our death: it goes on with its loop. While puppets wait for the
//! next draft it runs, and is borrowed again where it has to do something.

use super::Error;
use super::{passing, turns};
use ferry_sys::proc::maps::Mapping;
use ferry_sys::proc::{self, maps, status};
use ferry_sys::process_vm;
use ferry_sys::ptrace::{self, Registers, Stop};
use ferry_sys::remote::machine::{UNDO_BYTES, undo_block};
use ferry_sys::remote::tail::Tail;
use ferry_sys::remote::{Machine, Reach, SharedMemory, Site, Tracee, code};
use ferry_sys::schedule::{self, Affinity};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

/// Bytes of the shared memory: address space, of which only what is used is touched.
pub(super) const AREA_BYTES: u64 = 256 << 20;
/// Bytes of the code page at its begin.
pub(super) const CODE_BYTES: u64 = 4096;

/// The memory that all puppets share with us: code, records and data of their batches. It outlives init's part in it.
#[derive(Debug)]
pub(super) struct Area {
    /// Address in init and all puppets.
    pub(super) start: u64,
    memory: SharedMemory,
    file: OwnedFd,
}

impl Area {
    /// How it is written and read.
    pub(super) fn reach(&self) -> Reach<'_> {
        Reach::Shared(&self.memory, self.start)
    }

    /// Whether a mapping of `space` is where it is, or too near.
    pub(super) fn collides(&self, space: &[Mapping]) -> bool {
        let (start, end) = (self.start - GAP, self.start + AREA_BYTES + GAP);
        let first = space.partition_point(|mapping| mapping.end <= start);
        space.get(first).is_some_and(|mapping| mapping.start < end)
    }
}

/// What stays free on both sides of it: stacks and neighbours grow.
const GAP: u64 = 1 << 20;

/// Init, stopped.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) tracee: Tracee,
    pub(super) site: Site,
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
    /// Stops `pid` and maps new shared memory into it, at a place that is also free in all of `spaces`.
    pub(super) fn borrow(
        pid: i32,
        spaces: &[&[Mapping]],
        machine: &mut Machine,
    ) -> Result<(Self, Area), Error> {
        let place = |own: &[Mapping]| place(&[spaces, &[own]].concat());
        Self::with(pid, place, machine, |machine, task, start| {
            let area = map_new(machine, task, start)?;
            area.reach().write(start, code::bytes()).map_err(Error::host("write the shared memory"))?;
            Ok(area)
        })
    }

    /// Stops `pid` once more, with the memory that its descendants have already.
    pub(super) fn borrow_again(pid: i32, area: &Area, machine: &mut Machine) -> Result<Self, Error> {
        let again =
            Self::with(pid, |_| Ok(area.start), machine, |machine, task, _| map_again(machine, task, area));
        Ok(again?.0)
    }

    fn with<T>(
        pid: i32,
        place: impl FnOnce(&[Mapping]) -> Result<u64, Error>,
        machine: &mut Machine,
        map: impl FnOnce(&mut Machine, (Tracee, &Site), u64) -> Result<T, Error>,
    ) -> Result<(Self, T), Error> {
        let failed =
            |what: &str| Error::host(format!("{what} process {pid}, under which the tree is rebuilt"));
        ptrace::seize(pid, ptrace::TRACE_SYSGOOD).map_err(failed("trace"))?;
        let result = ptrace::interrupt(pid).and_then(|()| stopped(pid)).map_err(failed("stop"));
        let host = result.and_then(|()| Self::settle(pid, place, machine)).and_then(|(host, start)| {
            let mapped = map(machine, (host.tracee, &host.site), start)?;
            Ok((host, mapped))
        });
        if host.is_err() {
            let _ = ptrace::detach(pid, 0);
        }
        host
    }

    fn settle(
        pid: i32,
        place: impl FnOnce(&[Mapping]) -> Result<u64, Error>,
        machine: &mut Machine,
    ) -> Result<(Self, u64), Error> {
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
        let read = |address: u64, bytes: &mut [u8]| Reach::Process(pid).read(address, bytes);
        if let Some((repaired, its_mask)) = tail.repair(&registers, read).map_err(failed("an undo block"))? {
            (registers, mask) = (repaired, its_mask.unwrap_or(mask));
        }
        let start = place(&own)?;
        let mem = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map_err(failed("the memory"))?;
        let content = Tail::content((start, AREA_BYTES), &undo_block(&registers, mask));
        mem.write_all_at(&content, tail.base).map_err(failed("the vDSO's end"))?;
        let ns_pid = ids.ns_tgid.last().copied().unwrap_or(pid);
        let tracee = Tracee { tid: pid, ns_pid, ns_tid: ns_pid };
        let site = Site { code: tail.code(), undo: tail.undo(), base: registers };
        if let Some((address, len)) = tail.leftover {
            machine.single(tracee, &site, libc::SYS_munmap, &[address, len])?;
        }
        let (home, processors) = turns::home(pid).map_err(failed("the affinity"))?;
        let passed = Vec::new();
        Ok((Self { tracee, site, registers, mask, tail, mem, passed, home, processors }, start))
    }

    /// Passes descriptors to init, which its descendants inherit; `passed` tells their numbers there.
    pub(super) fn pass(
        &mut self,
        machine: &mut Machine,
        area: &Area,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let task = (self.tracee, &self.site);
        let scratch = area.start + CODE_BYTES;
        self.passed.extend(passing::pass(machine, task, &area.reach(), scratch, descriptors)?);
        Ok(())
    }

    /// Takes everything back that init was lent and lets it go on.
    pub(super) fn give_back(mut self, machine: &mut Machine, area: u64) -> Result<(), Error> {
        for fd in std::mem::take(&mut self.passed) {
            machine.single(self.tracee, &self.site, libc::SYS_close, &[fd as u64])?;
        }
        machine.must(
            self.tracee,
            &self.site,
            "unmap the shared memory",
            libc::SYS_munmap,
            &[area, AREA_BYTES],
        )?;
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

/// A place for the shared memory that is free in all of `spaces`.
pub(super) fn place(spaces: &[&[Mapping]]) -> Result<u64, Error> {
    crate::capture::memory::hole(spaces, AREA_BYTES)
        .ok_or_else(|| Error::unfit(0, "no address is free in all of its processes"))
}

/// Moves the shared memory of a puppet to another address. Its code runs in the vDSO's end meanwhile.
pub(super) fn move_area(
    machine: &mut Machine,
    (tracee, base): (Tracee, Registers),
    from: u64,
    to: u64,
) -> Result<(), Error> {
    within_vdso(machine, (tracee, base), |machine, site| {
        let flags = libc::MREMAP_MAYMOVE as u64 | libc::MREMAP_FIXED as u64;
        for (at, len) in [(0, CODE_BYTES), (CODE_BYTES, AREA_BYTES - CODE_BYTES)] {
            let args = [from + at, len, len, flags, to + at];
            machine.must(tracee, site, "move the shared memory", libc::SYS_mremap, &args)?;
        }
        Ok(())
    })
}

/// Unmaps the shared memory of a puppet. Nothing but lone calls by the vDSO's end can follow.
pub(super) fn unmap_area(
    machine: &mut Machine,
    (tracee, base): (Tracee, Registers),
    area: u64,
) -> Result<(), Error> {
    within_vdso(machine, (tracee, base), |machine, site| {
        let args = [area, AREA_BYTES];
        machine.must(tracee, site, "unmap the shared memory", libc::SYS_munmap, &args)?;
        Ok(())
    })
}

/// Puts the code of remote calls into the end of a puppet's vDSO for a while.
fn within_vdso(
    machine: &mut Machine,
    (tracee, base): (Tracee, Registers),
    work: impl FnOnce(&mut Machine, &Site) -> Result<(), Error>,
) -> Result<(), Error> {
    let pid = tracee.tid;
    let failed = |what: &str| Error::host(format!("{what} of a puppet"));
    let text = proc::read(pid, "maps").map_err(failed("read the mappings"))?;
    let all = maps::parse(&text).map_err(|bad| failed("read the mappings")(bad.into()))?;
    let vdso = all.iter().find(|mapping| mapping.name == b"[vdso]");
    let vdso = vdso.ok_or_else(|| Error::Damaged("a puppet without a vDSO".into()))?;
    let mut bytes = vec![0u8; (vdso.end - vdso.start) as usize];
    process_vm::read(pid, vdso.start, &mut bytes).map_err(failed("read the vDSO"))?;
    let tail = Tail::find(&bytes, vdso.start)?;
    let mem = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"));
    let mem = mem.map_err(failed("open the memory"))?;
    let content = Tail::content((0, 0), &[0u8; UNDO_BYTES]);
    mem.write_all_at(&content, tail.base).map_err(failed("write the vDSO's end"))?;
    work(machine, &Site { code: tail.code(), undo: 0, base })?;
    mem.write_all_at(&vec![0u8; Tail::bytes()], tail.base).map_err(failed("clean the vDSO's end"))
}

fn map_new(machine: &mut Machine, task: (Tracee, &Site), start: u64) -> Result<Area, Error> {
    const MFD_CLOEXEC: u64 = 1;
    let (tracee, site) = task;
    // The name is any text that init has: the begin of the code page would do, an empty one is found in its vDSO's tail.
    let name = site.undo - 8;
    let fd =
        machine.must(tracee, site, "make shared memory", libc::SYS_memfd_create, &[name, MFD_CLOEXEC])?;
    let file = passing::take(tracee.tid, fd as i32)?;
    rustix::fs::ftruncate(&file, AREA_BYTES)
        .map_err(|error| Error::host("size the shared memory")(error.into()))?;
    let memory =
        SharedMemory::map(file.as_fd(), AREA_BYTES as usize).map_err(Error::host("map the shared memory"))?;
    map_parts(machine, task, start, fd)?;
    Ok(Area { start, memory, file })
}

/// Maps the memory that the puppets have already into init. A page of its own serves as scratch until then.
fn map_again(machine: &mut Machine, task: (Tracee, &Site), area: &Area) -> Result<(), Error> {
    let (tracee, site) = task;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let args = [area.start, CODE_BYTES, prot, flags, u64::MAX, 0];
    machine.must(tracee, site, "map a page", libc::SYS_mmap, &args)?;
    let reach = Reach::Process(tracee.tid);
    let passed = passing::pass(machine, task, &reach, area.start, &[area.file.as_fd()])?;
    machine.must(tracee, site, "unmap a page", libc::SYS_munmap, &[area.start, CODE_BYTES])?;
    let fd = passed.first().copied().unwrap_or(-1);
    map_parts(machine, task, area.start, fd as u64)
}

/// Code and data, by a descriptor of the task that is closed then.
fn map_parts(machine: &mut Machine, task: (Tracee, &Site), start: u64, fd: u64) -> Result<(), Error> {
    let (tracee, site) = task;
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE) as u64;
    let (read, write, execute) = (libc::PROT_READ as u64, libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
    let code = [start, CODE_BYTES, read | execute, flags, fd, 0];
    machine.must(tracee, site, "map the code of remote calls", libc::SYS_mmap, &code)?;
    let data = [start + CODE_BYTES, AREA_BYTES - CODE_BYTES, read | write, flags, fd, CODE_BYTES];
    machine.must(tracee, site, "map the memory of remote calls", libc::SYS_mmap, &data)?;
    machine.must(tracee, site, "close a descriptor", libc::SYS_close, &[fd])?;
    Ok(())
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
