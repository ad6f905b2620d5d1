//! Where a task runs remote calls during a capture: the code in the tail of its vDSO, records and undo blocks in an area that is
//! mapped for the time being.
//!
//! Every step is safe against the tracer's death: code and undo blocks are written before a thread's registers point to them,
//! and by then they hold all that is needed to go on as if nothing had been.

use super::Error;
use super::seize::{Seized, SeizedTask};
use crate::capture::memory;
use ferry_sys::proc::maps::Mapping;
use ferry_sys::process_vm;
use ferry_sys::remote::machine::{UNDO_BYTES, undo_block};
use ferry_sys::remote::tail::Tail;
use ferry_sys::remote::{Layout, Program, Reach, Site as CallSite};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

const PAGE: u64 = 4096;

/// The site of one process.
#[derive(Debug)]
pub struct Site {
    tail: Tail,
    area: (u64, u64),
    layout: Layout,
    mem: File,
}

/// Bytes for the records and data of one process and of each of its threads.
const RECORDS_BYTES: u64 = 32 << 10;
const RECORDS_BYTES_PER_THREAD: u64 = 4 << 10;

impl Site {
    /// Makes the site of a process and maps its area, by one remote call.
    pub(super) fn enter(seized: &mut Seized, at: usize, maps: &[Mapping]) -> Result<(), Error> {
        let task = &mut seized.tasks[at];
        let pid = task.ids.host_pid;
        let vdso = maps
            .iter()
            .find(|mapping| mapping.name == b"[vdso]")
            .ok_or_else(|| Error::unsupported(task.ids.ns_pid, "it has no vDSO"))?;
        let mut bytes = vec![0u8; (vdso.end - vdso.start) as usize];
        let count = process_vm::read(pid, vdso.start, &mut bytes).map_err(Error::read("the vDSO", pid))?;
        let tail = Tail::find(&bytes[..count], vdso.start)?;
        for index in 0..task.threads.len() {
            let tracee = task.tracee(index);
            let thread = &mut task.threads[index];
            if tail.runs(&thread.registers) {
                thread.registers =
                    seized.machine.finish_for_another(tracee, tail.code(), &thread.registers)?;
            }
            let read = |address: u64, bytes: &mut [u8]| Reach::Process(pid).read(address, bytes);
            let repaired =
                tail.repair(&thread.registers, read).map_err(Error::read("an undo block", thread.tid))?;
            if let Some((registers, mask)) = repaired {
                (thread.registers, thread.mask) = (registers, mask.unwrap_or(thread.mask));
                ferry_sys::ptrace::set_registers(thread.tid, &thread.registers)
                    .and_then(|()| ferry_sys::ptrace::set_signal_mask(thread.tid, thread.mask))
                    .map_err(Error::read("the registers", thread.tid))?;
            }
        }
        let threads = task.threads.len() as u64;
        let timers = RECORDS_BYTES_PER_THREAD * threads;
        let undo_len = (threads * UNDO_BYTES as u64).next_multiple_of(PAGE);
        let records_len = RECORDS_BYTES + timers;
        let data_len = (RECORDS_BYTES + timers).next_multiple_of(PAGE);
        let len = (undo_len + records_len + data_len).next_multiple_of(PAGE);
        let base = memory::hole(&[maps], len)
            .ok_or_else(|| Error::unsupported(task.ids.ns_pid, "its address space has no free place"))?;
        let mem = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map_err(Error::read("the memory", pid))?;
        let undo = undo_block(&task.threads[0].registers, task.threads[0].mask);
        let write = |area| mem.write_all_at(&Tail::content(area, &undo), tail.base);
        if let Some(leftover) = tail.leftover {
            // The header names what is left until it is unmapped: this tracer may be killed too.
            write(leftover).map_err(Error::read("the vDSO's end", pid))?;
            let (tracee, base) = (task.tracee(0), task.threads[0].registers);
            let call = CallSite { code: tail.code(), undo: tail.undo(), base };
            task.threads[0].dirty = true;
            seized.machine.single(tracee, &call, libc::SYS_munmap, &[leftover.0, leftover.1])?;
        }
        write((base, len)).map_err(Error::read("the vDSO's end", pid))?;
        let task = &mut seized.tasks[at];
        let layout =
            Layout { records: base + undo_len, records_len, data: base + undo_len + records_len, data_len };
        task.site = Some(Self { tail, area: (base, len), layout, mem });
        task.threads[0].dirty = true;
        let (tracee, call) = (task.tracee(0), leader_site(task));
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let args = [base, len, prot as u64, flags as u64, u64::MAX, 0];
        seized.machine.must(tracee, &call, "map the memory for remote calls", libc::SYS_mmap, &args)?;
        let undo: Vec<u8> = seized.tasks[at]
            .threads
            .iter()
            .flat_map(|thread| undo_block(&thread.registers, thread.mask))
            .collect();
        Reach::Process(pid).write(base, &undo).map_err(Error::read("the memory", pid))
    }

    pub(super) fn program(&self) -> Program {
        Program::new(self.layout)
    }

    /// Address of the record with this index.
    pub(super) fn record(&self, index: usize) -> u64 {
        self.layout.records + index as u64 * ferry_sys::remote::program::RECORD_BYTES
    }
}

/// What a killed tracer has left mapped in a task, which is no memory of the workload.
pub(super) fn leftover(pid: i32, maps: &[Mapping]) -> Option<(u64, u64)> {
    let vdso = maps.iter().find(|mapping| mapping.name == b"[vdso]")?;
    let mut bytes = vec![0u8; (vdso.end - vdso.start) as usize];
    let count = process_vm::read(pid, vdso.start, &mut bytes).ok()?;
    Tail::find(&bytes[..count], vdso.start).ok()?.leftover
}

/// How the leader makes calls: with the undo block in the vDSO's tail.
fn leader_site(task: &SeizedTask) -> CallSite {
    thread_site(task, 0)
}

/// How a thread makes calls.
pub(super) fn thread_site(task: &SeizedTask, thread: usize) -> CallSite {
    let Some(site) = &task.site else { unreachable!("calls are made from a site only") };
    let undo = if thread == 0 { site.tail.undo() } else { site.area.0 + (thread * UNDO_BYTES) as u64 };
    CallSite { code: site.tail.code(), undo, base: task.threads[thread].registers }
}

impl Seized {
    /// Takes a process' site away and puts the registers and masks of its threads back.
    pub(super) fn leave_site(&mut self, at: usize) -> Result<(), Error> {
        let mut result = Ok(());
        if self.tasks[at].site.is_some() {
            result = self.give_back_held(at).and_then(|()| self.unmap_area(at));
        }
        let task = &mut self.tasks[at];
        for thread in task.threads.iter_mut().filter(|thread| thread.dirty) {
            let put = ferry_sys::ptrace::set_registers(thread.tid, &thread.registers)
                .and_then(|()| ferry_sys::ptrace::set_signal_mask(thread.tid, thread.mask));
            match put {
                Ok(()) => thread.dirty = false,
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => thread.dirty = false,
                Err(error) => result = result.and(Err(Error::read("the registers", thread.tid)(error))),
            }
        }
        if let Some(site) = task.site.take() {
            let zeros = vec![0u8; Tail::bytes()];
            let wiped = site.mem.write_all_at(&zeros, site.tail.base);
            result = result.and(wiped.map_err(Error::read("the vDSO's end", task.ids.host_pid)));
        }
        result
    }

    /// Signals that came in the middle of a batch go back to the queue of their thread.
    fn give_back_held(&mut self, at: usize) -> Result<(), Error> {
        let own = self.machine.signal;
        let mut left = Vec::new();
        for (tid, info) in std::mem::take(&mut self.machine.held) {
            let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            let task = &self.tasks[at];
            let Some(thread) = task.threads.iter().position(|thread| thread.tid == tid) else {
                left.push((tid, info));
                continue;
            };
            if signal == own {
                left.push((tid, info));
                continue;
            }
            let Some(site) = &task.site else { continue };
            Reach::Process(task.ids.host_pid)
                .write(site.layout.data, &info)
                .map_err(Error::read("the memory", task.ids.host_pid))?;
            let (tracee, call) = (task.tracee(thread), thread_site(task, thread));
            let args = [tracee.ns_pid as u64, tracee.ns_tid as u64, signal as u64, site.layout.data];
            self.tasks[at].threads[thread].dirty = true;
            self.machine.must(tracee, &call, "give a signal back", libc::SYS_rt_tgsigqueueinfo, &args)?;
        }
        self.machine.held = left;
        Ok(())
    }

    fn unmap_area(&mut self, at: usize) -> Result<(), Error> {
        // The other threads' undo blocks are in the area: they must not need them any more.
        for thread in self.tasks[at].threads.iter_mut().skip(1).filter(|thread| thread.dirty) {
            ferry_sys::ptrace::set_registers(thread.tid, &thread.registers)
                .and_then(|()| ferry_sys::ptrace::set_signal_mask(thread.tid, thread.mask))
                .map_err(Error::read("the registers", thread.tid))?;
            thread.dirty = false;
        }
        let task = &self.tasks[at];
        let Some(site) = &task.site else { return Ok(()) };
        let (tracee, call, area) = (task.tracee(0), leader_site(task), site.area);
        self.machine.must(
            tracee,
            &call,
            "unmap the memory of remote calls",
            libc::SYS_munmap,
            &[area.0, area.1],
        )?;
        Ok(())
    }
}
