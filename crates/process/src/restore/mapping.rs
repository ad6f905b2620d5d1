//! The address space of a puppet: what it was born with goes, what the workload has is mapped in one batch; later, what has changed
//! since.

use super::Error;
use super::grow::clone3;
use crate::layout::{Change, filled_prot};
use crate::records::State;
use crate::records::memory::{Backing, Space, Vma, vma};
use crate::records::task::Task;
use ferry_sys::ptrace::RseqConfiguration;
use ferry_sys::remote::Program;
use std::collections::{BTreeMap, HashMap};

const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;
const ARCH_MAP_VDSO_64: u64 = 0x2003;
/// First address that no task of x86-64 has with four levels of page tables.
const TASK_END: u64 = 0x7fff_ffff_f000;

/// Numbers of passed descriptors: which one opens which object.
pub(super) type ObjectFds = HashMap<u32, i32>;

/// What is to be done with the address space of one puppet.
pub(super) struct Work<'a> {
    pub(super) task: &'a Task,
    /// As it is to be.
    pub(super) space: &'a Space,
    /// How to get there. With [`Change::Empty`] first if it is a new one, or another program's.
    pub(super) changes: Vec<Change>,
    /// What becomes of the fields that the kernel keeps.
    pub(super) fields: Fields,
    /// Whether its threads are made too, and descriptors that were passed to it are closed.
    pub(super) threads: bool,
    pub(super) passed: bool,
}

/// What becomes of the fields behind `/proc/PID/{exe,cmdline,environ,auxv}` and brk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    /// They stay as they are.
    Stay,
    /// Set, but for the executable, which is the right one.
    Set,
    /// Set, with the executable.
    All,
    /// As `All`, and values that the kernel refuses are left for later: a draft's.
    Try,
}

impl Work<'_> {
    /// Whether there is anything to do.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.fields == Fields::Stay
            && !(self.threads && self.task.threads.len() > 1)
    }

    fn fresh(&self) -> bool {
        self.changes.first() == Some(&Change::Empty)
    }

    fn maps(&self) -> impl Iterator<Item = &Vma> {
        self.changes.iter().filter_map(|change| match change {
            Change::Map(vma) => Some(vma),
            _ => None,
        })
    }
}

/// Adds what makes the puppet's space the workload's, as far as it needs the descriptors that it has inherited or was passed. `area`
/// is the shared memory, which stays.
pub(super) fn begin(
    program: &mut Program,
    state: &State,
    work: &Work<'_>,
    objects: &ObjectFds,
    area: (u64, u64),
    rseq: Option<RseqConfiguration>,
) -> Result<(), Error> {
    if work.fresh() {
        empty(program, area, rseq);
        map_kernel(program, work)?;
    }
    for change in &work.changes {
        if let Change::Unmap { start, end } = change {
            program.call("unmap memory", libc::SYS_munmap, &[*start, end - start]);
        }
    }
    map_objects(program, state, work, objects)
}

/// Adds what takes everything away that the puppet was born with, or that another program had.
fn empty(program: &mut Program, area: (u64, u64), rseq: Option<RseqConfiguration>) {
    if let Some(rseq) = rseq {
        // Otherwise the kernel kills the task when the area's page is gone.
        let args = [rseq.address, u64::from(rseq.size), 1, u64::from(rseq.signature)];
        program.call("unregister the rseq area", libc::SYS_rseq, &args);
    }
    program.call("empty the address space", libc::SYS_munmap, &[0, area.0]);
    program.call("empty the address space", libc::SYS_munmap, &[area.0 + area.1, TASK_END - area.0 - area.1]);
    let raised = program.data(&[u64::MAX.to_ne_bytes(), u64::MAX.to_ne_bytes()].concat());
    for limit in [libc::RLIMIT_AS, libc::RLIMIT_DATA, libc::RLIMIT_MEMLOCK] {
        program.call(
            "raise a limit for the time being",
            libc::SYS_prlimit64,
            &[0, u64::from(limit), raised, 0],
        );
        program.accept(&[libc::EPERM]);
    }
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let raised = program.data(&[files.to_ne_bytes(), files.to_ne_bytes()].concat());
    let args = [0, u64::from(libc::RLIMIT_NOFILE), raised, 0];
    program.call("raise the limit of descriptors for the time being", libc::SYS_prlimit64, &args);
    program.accept(&[libc::EPERM]);
}

/// Adds the rest. By now nobody needs the inherited descriptors, with whom the puppet may share its table. Answers with the index of
/// the call that sets the fields.
pub(super) fn complete(program: &mut Program, work: &Work<'_>) -> Result<Option<usize>, Error> {
    let mut names = Names { program, addresses: HashMap::new() };
    if work.fresh() || work.passed {
        let args = [0, u64::from(u32::MAX), 0];
        names.program.call("close inherited descriptors", libc::SYS_close_range, &args);
    }
    // Before the files: the executable cannot be changed while the old one is mapped, and it may be the same one.
    let set = match work.fields {
        Fields::Stay => None,
        fields => Some(set_layout(&mut names, work.task, work.space, fields)?),
    };
    map_files(&mut names, work)?;
    for vma in work.maps().filter(|vma| vma.backing == Backing::Anonymous) {
        map(names.program, vma, u64::MAX, 0);
    }
    for change in &work.changes {
        match change {
            Change::Protect { start, end, prot } => {
                let args = [*start, end - start, u64::from(*prot)];
                names.program.call("protect memory", libc::SYS_mprotect, &args);
            }
            Change::Advise { start, end, advice } => {
                let args = [*start, end - start, *advice as u64];
                names.program.call("give advice on memory", libc::SYS_madvise, &args);
                // A kernel without huge pages or merging takes no advice on them.
                names.program.accept(&[libc::EINVAL]);
            }
            Change::Empty | Change::Unmap { .. } | Change::Map(_) => {}
        }
    }
    for thread in work.task.threads.iter().skip(1).filter(|_| work.threads) {
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM
            | libc::CLONE_PTRACE;
        let flags = if thread.own_files { flags & !libc::CLONE_FILES } else { flags };
        clone3(names.program, "make a thread with its number", flags as u64, 0, thread.tid, 0);
    }
    Ok(set)
}

/// Adds what unmaps private mappings of memory and files, and maps them once more.
pub(super) fn again(program: &mut Program, vmas: &[Vma]) -> Result<(), Error> {
    for vma in vmas {
        program.call("unmap memory", libc::SYS_munmap, &[vma.start, vma.end - vma.start]);
    }
    let space = Space { id: 1, vmas: vmas.to_vec(), ..Space::default() };
    let task = Task::default();
    let changes = crate::layout::changes(&Space { id: 1, ..Space::default() }, &space);
    let work =
        Work { task: &task, space: &space, changes, fields: Fields::Stay, threads: false, passed: false };
    complete(program, &work).map(drop)
}

/// Paths in the data, each once.
struct Names<'a> {
    program: &'a mut Program,
    addresses: HashMap<Vec<u8>, u64>,
}

impl Names<'_> {
    fn address(&mut self, path: &[u8]) -> u64 {
        if let Some(address) = self.addresses.get(path) {
            return *address;
        }
        let address = self.program.data(&[path, b"\0"].concat());
        self.addresses.insert(path.to_vec(), address);
        address
    }
}

/// The kernel's pages begin at the lowest of their mappings (vvar); there may be two or three of them.
fn map_kernel(program: &mut Program, work: &Work<'_>) -> Result<(), Error> {
    let kernel = |vma: &&Vma| matches!(vma.backing, Backing::Kernel { .. });
    let Some(first) = work.space.vmas.iter().find(kernel) else {
        return Err(Error::unfit(work.task.pid, "it has no vDSO"));
    };
    program.call("map the vDSO", libc::SYS_arch_prctl, &[ARCH_MAP_VDSO_64, first.start]);
    Ok(())
}

fn map_objects(
    program: &mut Program,
    state: &State,
    work: &Work<'_>,
    objects: &ObjectFds,
) -> Result<(), Error> {
    for vma in work.maps() {
        let Backing::Object { id, offset } = &vma.backing else { continue };
        let fd = objects.get(id).filter(|_| state.objects.iter().any(|object| object.id == *id));
        let pid = work.task.pid;
        let fd =
            fd.ok_or_else(|| Error::Damaged(format!("process {pid} maps object {id}, which is none")))?;
        map(program, vma, *fd as u64, *offset);
    }
    Ok(())
}

/// Each file is opened once, as descriptor 0: nothing else is open.
fn map_files(names: &mut Names<'_>, work: &Work<'_>) -> Result<(), Error> {
    let mut files: BTreeMap<(&[u8], bool), Vec<&Vma>> = BTreeMap::new();
    for vma in work.maps() {
        if let Backing::File { path, .. } = &vma.backing {
            if !path.starts_with(b"/") || path.contains(&0) {
                return Err(Error::Damaged(format!("process {} maps a file with no path", work.task.pid)));
            }
            let writable = vma.flags & (vma::SHARED | vma::MAY_WRITE) == vma::SHARED | vma::MAY_WRITE;
            files.entry((path, writable)).or_default().push(vma);
        }
    }
    for ((path, writable), vmas) in files {
        let address = names.address(path);
        let mode = if writable { libc::O_RDWR } else { libc::O_RDONLY } | libc::O_CLOEXEC;
        let what = format!("open {} to map it", String::from_utf8_lossy(path));
        names.program.call(what, libc::SYS_openat, &[libc::AT_FDCWD as u64, address, mode as u64, 0]);
        for vma in vmas {
            let Backing::File { offset, .. } = &vma.backing else { continue };
            map(names.program, vma, 0, *offset);
        }
        names.program.call("close a mapped file", libc::SYS_close, &[0]);
    }
    Ok(())
}

fn map(program: &mut Program, vma: &Vma, fd: u64, offset: u64) {
    let mut flags = libc::MAP_FIXED_NOREPLACE;
    flags |= if vma.flags & vma::SHARED != 0 { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    if fd == u64::MAX {
        flags |= libc::MAP_ANONYMOUS;
    }
    for (bit, flag) in [(vma::GROWSDOWN, libc::MAP_GROWSDOWN), (vma::NORESERVE, libc::MAP_NORESERVE)] {
        if vma.flags & bit != 0 {
            flags |= flag;
        }
    }
    let args = [vma.start, vma.end - vma.start, u64::from(filled_prot(vma)), flags as u64, fd, offset];
    program.call("map memory where it was", libc::SYS_mmap, &args);
}

/// Adds the fields behind `/proc/PID/{exe,cmdline,environ,auxv}` and brk; answers with the index of the call.
fn set_layout(names: &mut Names<'_>, task: &Task, space: &Space, fields: Fields) -> Result<usize, Error> {
    if space.exe.ends_with(b" (deleted)") || !space.exe.starts_with(b"/") {
        return Err(Error::unfit(task.pid, "its executable has been deleted"));
    }
    let open = fields != Fields::Set;
    let auxv = names.program.data(&space.auxv);
    let mut map: Vec<u8> = space.layout.iter().flat_map(|word| word.to_ne_bytes()).collect();
    map.extend_from_slice(&auxv.to_ne_bytes());
    map.extend_from_slice(&(space.auxv.len() as u32).to_ne_bytes());
    map.extend_from_slice(&if open { 0u32 } else { u32::MAX }.to_ne_bytes());
    let map_address = names.program.data(&map);
    if open {
        let path = names.address(&space.exe);
        let what = format!("open the executable {}", String::from_utf8_lossy(&space.exe));
        let mode = libc::O_RDONLY | libc::O_CLOEXEC;
        names.program.call(what, libc::SYS_openat, &[libc::AT_FDCWD as u64, path, mode as u64, 0]);
    }
    let args = [PR_SET_MM, PR_SET_MM_MAP, map_address, map.len() as u64, 0];
    let set = names.program.call("set the layout of the address space", libc::SYS_prctl, &args);
    if fields == Fields::Try {
        names.program.accept(&[libc::EINVAL, libc::EPERM, libc::EBUSY]);
    }
    if open {
        names.program.call("close the executable", libc::SYS_close, &[0]);
    }
    Ok(set)
}
