//! The address space of a puppet: what it was born with goes, what the workload had is mapped in one batch.

use super::Error;
use super::grow::clone3;
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

/// Adds what makes the puppet's space the workload's, as far as it needs the descriptors that it has inherited. `area` is the
/// shared memory, which stays.
pub(super) fn begin(
    program: &mut Program,
    state: &State,
    task: &Task,
    space: &Space,
    objects: &ObjectFds,
    area: (u64, u64),
    rseq: Option<RseqConfiguration>,
) -> Result<(), Error> {
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
    let mut names = Names { program, addresses: HashMap::new() };
    map_kernel(&mut names, task, space)?;
    map_objects(&mut names, state, task, space, objects)
}

/// Adds the rest. By now nobody needs the inherited descriptors, with whom the puppet may share its table.
pub(super) fn complete(program: &mut Program, task: &Task, space: &Space) -> Result<(), Error> {
    let mut names = Names { program, addresses: HashMap::new() };
    names.program.call("close inherited descriptors", libc::SYS_close_range, &[0, u64::from(u32::MAX), 0]);
    // Before the files: the executable cannot be changed while the old one is mapped, and it may be the same one.
    set_layout(&mut names, task, space)?;
    map_files(&mut names, task, space)?;
    for vma in space.vmas.iter().filter(|vma| vma.backing == Backing::Anonymous) {
        map(names.program, vma, u64::MAX, 0);
    }
    advise(names.program, space);
    for thread in task.threads.iter().skip(1) {
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
    Ok(())
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
fn map_kernel(names: &mut Names<'_>, task: &Task, space: &Space) -> Result<(), Error> {
    let kernel = |vma: &&Vma| matches!(vma.backing, Backing::Kernel { .. });
    let Some(first) = space.vmas.iter().find(kernel) else {
        return Err(Error::unfit(task.pid, "it has no vDSO"));
    };
    names.program.call("map the vDSO", libc::SYS_arch_prctl, &[ARCH_MAP_VDSO_64, first.start]);
    Ok(())
}

fn map_objects(
    names: &mut Names<'_>,
    state: &State,
    task: &Task,
    space: &Space,
    objects: &ObjectFds,
) -> Result<(), Error> {
    for vma in &space.vmas {
        let Backing::Object { id, offset } = &vma.backing else { continue };
        let fd = objects.get(id).filter(|_| state.objects.iter().any(|object| object.id == *id));
        let fd = fd
            .ok_or_else(|| Error::Damaged(format!("process {} maps object {id}, which is none", task.pid)))?;
        map(names.program, vma, *fd as u64, *offset);
    }
    Ok(())
}

/// Each file is opened once, as descriptor 0: nothing else is open.
fn map_files(names: &mut Names<'_>, task: &Task, space: &Space) -> Result<(), Error> {
    let mut files: BTreeMap<(&[u8], bool), Vec<&Vma>> = BTreeMap::new();
    for vma in &space.vmas {
        if let Backing::File { path, .. } = &vma.backing {
            if !path.starts_with(b"/") || path.contains(&0) {
                return Err(Error::Damaged(format!("process {} maps a file with no path", task.pid)));
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
    let prot = if protected_later(vma) { vma.prot | libc::PROT_WRITE as u32 } else { vma.prot };
    let args = [vma.start, vma.end - vma.start, u64::from(prot), flags as u64, fd, offset];
    program.call("map memory where it was", libc::SYS_mmap, &args);
}

/// Private memory that was writable once: it is filled while it is writable, which is also faster.
pub(super) fn protected_later(vma: &Vma) -> bool {
    let private = vma.flags & (vma::ACCOUNTED | vma::SHARED) == vma::ACCOUNTED;
    private && vma.prot & libc::PROT_WRITE as u32 == 0
}

/// Advice by its bit in the record. Locks come at the end, when the pages are in.
const ADVICE: [(u32, i32); 8] = [
    (vma::HUGEPAGE, libc::MADV_HUGEPAGE),
    (vma::NOHUGEPAGE, libc::MADV_NOHUGEPAGE),
    (vma::DONTFORK, libc::MADV_DONTFORK),
    (vma::WIPEONFORK, libc::MADV_WIPEONFORK),
    (vma::DONTDUMP, libc::MADV_DONTDUMP),
    (vma::MERGEABLE, libc::MADV_MERGEABLE),
    (vma::SEQUENTIAL, libc::MADV_SEQUENTIAL),
    (vma::RANDOM, libc::MADV_RANDOM),
];

fn advise(program: &mut Program, space: &Space) {
    let own = |vma: &&Vma| !matches!(vma.backing, Backing::Kernel { .. });
    for (bit, advice) in ADVICE {
        // Neighbours are advised together: thousands of small mappings often have the same advice.
        let mut run: Option<(u64, u64)> = None;
        for vma in space.vmas.iter().filter(own).filter(|vma| vma.flags & bit != 0) {
            run = match run {
                Some((start, end)) if end == vma.start => Some((start, vma.end)),
                before => {
                    advise_run(program, before, advice);
                    Some((vma.start, vma.end))
                }
            };
        }
        advise_run(program, run, advice);
    }
}

fn advise_run(program: &mut Program, run: Option<(u64, u64)>, advice: i32) {
    let Some((start, end)) = run else { return };
    program.call("give advice on memory", libc::SYS_madvise, &[start, end - start, advice as u64]);
    // A kernel without huge pages or merging takes no advice on them.
    program.accept(&[libc::EINVAL]);
}

/// The fields behind `/proc/PID/{exe,cmdline,environ,auxv}` and brk.
fn set_layout(names: &mut Names<'_>, task: &Task, space: &Space) -> Result<(), Error> {
    if space.exe.ends_with(b" (deleted)") || !space.exe.starts_with(b"/") {
        return Err(Error::unfit(task.pid, "its executable has been deleted"));
    }
    let path = names.address(&space.exe);
    let auxv = names.program.data(&space.auxv);
    let mut map: Vec<u8> = space.layout.iter().flat_map(|word| word.to_ne_bytes()).collect();
    map.extend_from_slice(&auxv.to_ne_bytes());
    map.extend_from_slice(&(space.auxv.len() as u32).to_ne_bytes());
    map.extend_from_slice(&0u32.to_ne_bytes());
    let map_address = names.program.data(&map);
    let what = format!("open the executable {}", String::from_utf8_lossy(&space.exe));
    let mode = libc::O_RDONLY | libc::O_CLOEXEC;
    names.program.call(what, libc::SYS_openat, &[libc::AT_FDCWD as u64, path, mode as u64, 0]);
    let args = [PR_SET_MM, PR_SET_MM_MAP, map_address, map.len() as u64, 0];
    names.program.call("set the layout of the address space", libc::SYS_prctl, &args);
    names.program.call("close the executable", libc::SYS_close, &[0]);
    Ok(())
}
