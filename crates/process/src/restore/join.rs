//! Files that a draft's mappings need, and mappings that have come together of parts.
//!
//! Memory that was mapped in two steps, and filled in between, may be two mappings where the source has one: the kernel joins them only
//! when it can. The program would notice (mremap takes one mapping at a time), so such parts are mapped anew with what they hold.
//! The same is done where a file was staged anew after it had been mapped.

use super::Error;
use super::mapping;
use super::puppets::Puppets;
use crate::records::State;
use crate::records::memory::{Backing, Space, Vma, vma};
use ferry_sys::proc::{self, maps};
use ferry_sys::remote::Program;
use ferry_sys::{pagemap, process_vm};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Most bytes that are held here while a part is mapped anew; anonymous memory goes in steps of it.
const STEP_BYTES: u64 = 32 << 20;

impl Puppets {
    /// `draft` without the mappings of files that are not there yet. Those that are mapped already stay.
    pub(super) fn available(&self, draft: &State) -> State {
        let mut state = draft.clone();
        let mut known: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        for space in &mut state.spaces {
            space.vmas.retain(|vma| match &vma.backing {
                Backing::File { path, .. } => {
                    *known.entry(path.clone()).or_insert_with(|| self.has_file(path))
                }
                _ => true,
            });
        }
        state
    }

    /// Whether the capsule has a regular file with this path, which is not to be exchanged any more.
    pub(super) fn has_file(&self, path: &[u8]) -> bool {
        !self.is_staged(path) && self.identify(path).is_some()
    }

    /// Whether a file came along with the tree, or its absence did.
    fn is_staged(&self, path: &[u8]) -> bool {
        let beneath = path.strip_prefix(b"/").unwrap_or(path);
        let beneath = Path::new(OsStr::from_bytes(beneath));
        self.home.staged.as_ref().is_some_and(|upper| upper.join(beneath).symlink_metadata().is_ok())
    }

    /// Fails if a file that is mapped already has been staged since: what is mapped is not what it is now.
    pub(super) fn check_staged(&self) -> Result<(), Error> {
        let set = self.state.tasks.iter().filter(|task| !self.without_exe.contains(&task.pid));
        let spaces: BTreeSet<u32> = set.filter_map(|task| task.space).collect();
        let executables = self.state.spaces.iter().filter(|space| spaces.contains(&space.id));
        let executables = executables.map(|space| &space.exe);
        match self.files.keys().chain(executables).find(|path| self.is_staged(path)) {
            None => Ok(()),
            Some(path) => {
                let what = format!(
                    "{} was changed while it was moved; move it again",
                    String::from_utf8_lossy(path)
                );
                Err(Error::unfit(0, what))
            }
        }
    }

    /// Device and inode of a regular file, by its path inside of the capsule.
    fn identify(&self, path: &[u8]) -> Option<(u64, u64)> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::open(
            format!("/proc/{}/root", self.home.init),
            flags | OFlags::DIRECTORY,
            Mode::empty(),
        );
        let path = Path::new(OsStr::from_bytes(path));
        let opened =
            rustix::fs::openat2(root.ok()?, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
        let stat = rustix::fs::fstat(opened).ok()?;
        let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
        regular.then_some((stat.st_dev, stat.st_ino))
    }

    /// Notes which files the mapped paths are, and answers with the paths that were others when they were mapped.
    pub(super) fn staged_anew(&mut self, state: &State) -> BTreeSet<Vec<u8>> {
        let mut paths: BTreeSet<&[u8]> = BTreeSet::new();
        for vma in state.spaces.iter().flat_map(|space| &space.vmas) {
            if let Backing::File { path, .. } = &vma.backing {
                paths.insert(path);
            }
        }
        let mut changed = BTreeSet::new();
        for path in paths {
            let Some(now) = self.identify(path) else { continue };
            if self.files.insert(path.to_vec(), now).is_some_and(|before| before != now) {
                changed.insert(path.to_vec());
            }
        }
        changed
    }

    /// Maps the files of `paths` anew, where they were mapped before.
    pub(super) fn map_files_anew(
        &mut self,
        pid: i32,
        space: &Space,
        paths: &BTreeSet<Vec<u8>>,
    ) -> Result<(), Error> {
        for vma in &space.vmas {
            if matches!(&vma.backing, Backing::File { path, .. } if paths.contains(path)) {
                self.map_anew(pid, std::slice::from_ref(vma))?;
            }
        }
        Ok(())
    }

    /// Makes one mapping of each that is to be one, and has become several.
    pub(super) fn join_mappings(&mut self, pid: i32, space: &Space) -> Result<(), Error> {
        let host_pid = self.family.actor(pid)?.0.tid;
        let failed = || Error::host("read the mappings of a puppet");
        let now = maps::parse(&proc::read(host_pid, "maps").map_err(failed())?);
        let now = now.map_err(|bad| failed()(bad.into()))?;
        for vma in &space.vmas {
            if vma.flags & vma::SHARED != 0 || matches!(vma.backing, Backing::Kernel { .. }) {
                continue;
            }
            let first = now.partition_point(|mapping| mapping.end <= vma.start);
            let parts: Vec<(u64, u64)> = now[first..]
                .iter()
                .take_while(|mapping| mapping.start < vma.end)
                .map(|mapping| (mapping.start.max(vma.start), mapping.end.min(vma.end)))
                .collect();
            if parts.len() > 1 {
                self.join(pid, vma, &parts)?;
            }
        }
        Ok(())
    }

    /// A file's parts are all mapped anew: each time it is opened it is another one for the kernel. Of anonymous ones the largest stays,
    /// and grows.
    fn join(&mut self, pid: i32, vma: &Vma, parts: &[(u64, u64)]) -> Result<(), Error> {
        if vma.backing != Backing::Anonymous {
            return self.map_anew(pid, std::slice::from_ref(vma));
        }
        let largest = (0..parts.len()).max_by_key(|at| parts[*at].1 - parts[*at].0).unwrap_or(0);
        let piece = |start: u64, end: u64| Vma { start, end, ..vma.clone() };
        for (start, end) in &parts[largest + 1..] {
            for at in (*start..*end).step_by(STEP_BYTES as usize) {
                self.map_anew(pid, &[piece(at, (at + STEP_BYTES).min(*end))])?;
            }
        }
        for (start, end) in parts[..largest].iter().rev() {
            let mut at = *end;
            while at > *start {
                let begin = at.saturating_sub(STEP_BYTES).max(*start);
                self.map_anew(pid, &[piece(begin, at)])?;
                at = begin;
            }
        }
        Ok(())
    }

    /// Unmaps private mappings, maps them again, and puts back what they held.
    fn map_anew(&mut self, pid: i32, vmas: &[Vma]) -> Result<(), Error> {
        let host_pid = self.family.actor(pid)?.0.tid;
        let failed = |what: &str| Error::host(format!("{what} the memory of a puppet"));
        let bounds: Vec<(u64, u64)> = vmas.iter().map(|vma| (vma.start, vma.end)).collect();
        let maps: Vec<(u64, u64, bool)> = bounds.iter().map(|(start, end)| (*start, *end, false)).collect();
        let (content, _) = pagemap::private_content(host_pid, &maps).map_err(failed("look at"))?;
        let mut held = Vec::new();
        for region in content {
            for (start, end) in &bounds {
                let (start, end) = (region.start.max(*start), region.end.min(*end));
                if start < end {
                    let mut bytes = vec![0u8; (end - start) as usize];
                    let read = process_vm::read(host_pid, start, &mut bytes).map_err(failed("read"))?;
                    bytes.truncate(read);
                    held.push((start, bytes));
                }
            }
        }
        let mut program = Program::new(self.family.layout());
        mapping::again(&mut program, vmas)?;
        self.family.run(pid, &mut program)?;
        program.check(0..program.len())?;
        let memory = OpenOptions::new().write(true).open(format!("/proc/{host_pid}/mem"));
        let memory = memory.map_err(failed("open"))?;
        held.iter().try_for_each(|(start, bytes)| memory.write_all_at(bytes, *start)).map_err(failed("write"))
    }
}
