//! A look at the running workload for a live move: what its target can build early, and what tracks its memory.

use super::capture::failed;
use super::envelope::Envelope;
use super::protocol::{Answer, Phase, TrackedSpace, Untracked};
use super::workload::{Workload, no_capsule, unable};
use ferry_model::error::Result;
use ferry_process::adoption::Adoption;
use ferry_process::capsule::Capsule;
use ferry_process::capture::Scope;
use ferry_process::inspect::host;
use ferry_process::live::Tracking;
use ferry_process::records::State;
use ferry_sys::mountinfo;
use ferry_sys::proc::maps::Mapping;
use ferry_sys::say::say;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// File systems whose content is in memory: it travels in the pause.
const IN_MEMORY: [&str; 3] = ["tmpfs", "ramfs", "hugetlbfs"];

impl Workload {
    /// The answer, and the userfaultfds that go behind it.
    pub(super) fn track(&mut self) -> Result<(Answer, Vec<OwnedFd>)> {
        self.require(&[Phase::Running], "be tracked")?;
        let scope = Scope::Cgroup(self.cgroup()?.path().to_owned());
        let late = Late::find(self)?;
        // First: who is born from here on is noticed by the next look.
        let last_pid = self.last_pid();
        let tracking = self.tracking.get_or_insert_with(Tracking::default);
        let tracked =
            tracking.refresh(&scope, &|mapping| late.has(mapping), &mut self.waits).map_err(failed)?;
        let state = self.draft_capsule(tracked.state)?;
        let first = self.record.as_ref().map_or(0, |record| self.inner_first(record.first));
        let draft = Envelope { state, first, last_pid, ..Envelope::default() }.to_bytes();
        let mut descriptors = Vec::new();
        let mut spaces = Vec::new();
        for each in tracked.spaces {
            spaces.push(TrackedSpace { space: each.space, pid: each.pid, fresh: each.userfaultfd.is_some() });
            descriptors.extend(each.userfaultfd);
        }
        let untracked = tracked.untracked.into_iter().map(|(pid, why)| Untracked { pid, why }).collect();
        let answer = Answer::Tracked { draft: draft.into(), spaces, objects: tracked.objects, untracked };
        Ok((answer, descriptors))
    }

    /// Which process id was given last in the capsule. Not known of a tree in none.
    pub(super) fn last_pid(&mut self) -> Option<i32> {
        self.capsule.as_mut().and_then(|capsule| capsule.last_pid().ok())
    }

    /// Forgets which processes were handed out. What was handed out is not ended by that, but by being closed.
    pub(super) fn untrack(&mut self) {
        if let Err(error) = self.full_speed() {
            say(format_args!("The workload stays slowed down: {error}"));
        }
        self.tracking = None;
    }

    /// What the capsule is like now.
    fn draft_capsule(&self, mut state: State) -> Result<State> {
        state.capsule = Some(match (&self.capsule, &self.adopted) {
            (Some(capsule), _) => capsule.capture()?,
            (None, Some(adopted)) => {
                host::leave_sessions(&mut state);
                host::record(adopted.pid())
                    .map_err(|e| unable("What the tree uses of the host could not be read", &e))?
            }
            (None, None) => return Err(no_capsule()),
        });
        Ok(state)
    }
}

/// What the target has only in the pause: files in memory, and files that the workload has written.
struct Late {
    devices: HashSet<(u32, u32)>,
    upper: PathBuf,
}

impl Late {
    fn find(workload: &Workload) -> Result<Self> {
        let capsule = workload.capsule.as_ref().map(Capsule::init_pid);
        let pid = capsule.or_else(|| workload.adopted.as_ref().map(Adoption::pid)).ok_or_else(no_capsule)?;
        let mounts = mountinfo::read(&PathBuf::from(format!("/proc/{pid}")))
            .map_err(|e| unable("The capsule's mount table could not be read", &e))?;
        let in_memory = mounts.iter().filter(|mount| IN_MEMORY.contains(&mount.kind.as_str()));
        let devices = in_memory.map(|mount| mount.device).collect();
        Ok(Self { devices, upper: workload.dir.join("upper") })
    }

    /// Objects without a name are made at the target, wherever they were here.
    fn has(&self, mapping: &Mapping) -> bool {
        if mapping.inode == 0 || mapping.deleted() {
            return false;
        }
        let path = Path::new(OsStr::from_bytes(&mapping.name));
        let written =
            path.strip_prefix("/").is_ok_and(|path| self.upper.join(path).symlink_metadata().is_ok());
        written || self.devices.contains(&mapping.device)
    }
}
