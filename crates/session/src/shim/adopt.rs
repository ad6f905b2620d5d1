//! Making a workload of a tree that already runs, and letting go of it again.
//!
//! The shim is not its parent: it watches the root by a pidfd, and the whole of it by its cgroup. Everything else is as with a
//! capsule, but that there is none: root, namespaces and descriptors are the host's.

use super::CONTENTS;
use super::protocol::{Exit, Phase};
use super::record::Record;
use super::spec::Spec;
use super::workload::{Workload, capsule_with, place_name, unable};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::BootId;
use ferry_model::resource::Binding;
use ferry_process::adoption::Adoption;
use ferry_process::capsule::contents;
use ferry_process::inspect::host;
use ferry_process::records::State;
use ferry_sys::say::say;
use rustix::fd::BorrowedFd;
use std::fs::File;
use std::io::{BufWriter, Write};

impl Workload {
    /// The tree stays where it is; only its cgroup changes.
    pub(super) fn adopt(&mut self, spec: &Spec, pid: i32) -> Result<()> {
        self.require(&[Phase::Empty], "be adopted")?;
        self.new_record(spec.clone(), Phase::Building)?;
        if let Some(record) = &mut self.record {
            (record.adopted, record.first) = (true, pid);
        }
        let taken = self.save().and_then(|()| self.take_tree(spec, pid));
        if let Err(error) = taken {
            // What was moved is where it was before.
            if let Err(more) = self.release() {
                say(format_args!("What a failed adoption left behind could not be put back: {more}"));
            }
            return Err(error);
        }
        Ok(())
    }

    fn take_tree(&mut self, spec: &Spec, pid: i32) -> Result<()> {
        // What it writes to its root from its first move on; until then it writes to the host's.
        std::fs::create_dir_all(self.dir.join("upper")).map_err(|e| unable("No room for its files", &e))?;
        let adopted = Adoption::take(&self.dir, &place_name(spec.id, &self.dir), pid)?;
        self.adopted = Some(adopted);
        let out = std::fs::read_link(format!("/proc/{pid}/fd/1"));
        let out = out.map_or_else(|_| "nowhere".to_owned(), |path| path.display().to_string());
        self.append_to_log(
            format!("ferry: process {pid} was adopted as it ran; what it prints goes where it went before: {out}\n")
                .as_bytes(),
        );
        self.set_phase(Phase::Running)
    }

    /// Lets go of an adopted tree: it runs on where it came from.
    pub(super) fn release(&mut self) -> Result<()> {
        let adopted = self.record.as_ref().is_some_and(|record| record.adopted);
        if !adopted {
            return Err(Error::new(
                Kind::Refused,
                "Only an adopted tree can be let go of: there is nothing else that it would run in",
            ));
        }
        self.untrack();
        self.end_repair()?;
        self.unlock_connections();
        if let Some(tree) = self.adopted.take() {
            tree.put_back(&self.dir)?;
        }
        self.record = None;
        let _ = std::fs::remove_dir(self.dir.join("upper"));
        Record::remove(&self.dir).map_err(|e| unable("The workload's record could not be removed", &e))
    }

    /// What a shim that died has left of an adopted tree. One whose adoption was not complete is put back.
    pub(super) fn recover_adopted(mut self, mut record: Record, boot: BootId) -> Result<Self> {
        let opened = if record.boot_id == boot { Adoption::open(&self.dir).ok() } else { None };
        let half_done = record.phase == Phase::Building;
        record.phase = match (record.phase, &opened) {
            (phase @ (Phase::Empty | Phase::Exited), _) => phase,
            (Phase::Building, _) | (_, None) => Phase::Lost,
            (_, Some(tree)) if tree.cgroup().freezing().unwrap_or(false) => Phase::Frozen,
            _ => Phase::Running,
        };
        self.adopted = opened;
        self.record = Some(record);
        if half_done && let Some(tree) = self.adopted.take() {
            tree.put_back(&self.dir)?;
        }
        self.save()?;
        self.root_ended();
        Ok(self)
    }

    /// The root of an adopted tree, while its end is not known.
    pub(super) fn root_to_watch(&self) -> Option<BorrowedFd<'_>> {
        let known = self.record.as_ref().is_some_and(|record| record.exit.is_some());
        self.adopted.as_ref().filter(|_| !known)?.pidfd()
    }

    /// Notes that the root of an adopted tree has ended, and how.
    pub(super) fn root_ended(&mut self) {
        let known = self.record.as_ref().is_none_or(|record| record.exit.is_some());
        let Some(tree) = self.adopted.as_ref().filter(|tree| !known && !tree.lives()) else { return };
        let status = tree.status();
        let exit = status.map_or(Exit::Code(UNKNOWN), Exit::from_wait);
        if status.is_none() {
            let line = format!(
                "ferry: its first process has ended; how, this kernel tells its parent only ({UNKNOWN} stands for it)\n"
            );
            self.append_to_log(line.as_bytes());
        }
        if let Some(record) = &mut self.record {
            record.exit = Some(exit);
        }
        if let Err(error) = self.save() {
            say(&error);
        }
    }

    /// The first program's pid as it sees itself.
    pub(super) fn inner_first(&self, first: i32) -> i32 {
        let inner = |pid: i32| {
            let status = ferry_sys::proc::status::read(&pid.to_string()).ok()?;
            status.ns_tgid.last().copied()
        };
        self.adopted.as_ref().map_or(first, |tree| inner(tree.pid()).unwrap_or(first))
    }

    /// What a capsule at the target has to be like, for a tree that lived in none: with the host's name and clocks, and those files of
    /// memory file systems that the tree uses.
    pub(super) fn capture_host(&self, mut state: State) -> Result<State> {
        let failed = |e: std::io::Error| unable("What the tree uses of the host could not be read", &e);
        let pid = self.adopted.as_ref().map_or(0, Adoption::pid);
        let mut record = host::record(pid).map_err(failed)?;
        host::leave_sessions(&mut state);
        let with = self.record.as_ref().map(|record| record.spec.with.as_slice()).unwrap_or_default();
        // What the target binds again is mounted in its capsule; what moves is not, there.
        record.with = capsule_with(with).collect();
        let named = with.iter().filter(|with| with.binding != Binding::Type);
        let parts = host::in_memory(&state, named.map(|with| with.path.as_str()));
        record.tmpfs = parts.iter().map(|(point, _)| point.clone()).collect();
        let file = File::create(self.dir.join(CONTENTS));
        let mut file = BufWriter::new(file.map_err(|e| unable("No room for memory file systems", &e))?);
        contents::pack_used(pid, &parts, &mut file)?;
        file.flush().map_err(|e| unable("No room for memory file systems", &e))?;
        state.capsule = Some(record);
        Ok(state)
    }

    /// Refuses what a tree outside of a capsule cannot do.
    pub(super) fn refuse_exec(&self) -> Result<()> {
        match &self.adopted {
            None => Ok(()),
            Some(tree) => Err(Error::new(
                Kind::Refused,
                format!("{} was adopted: it runs among the host's own processes, and has no capsule to start a program in",
                    self.record.as_ref().map_or("The workload", |record| record.spec.name.as_str())),
            )
            .hint(format!("start the program on the host itself; its processes are the tree of {}", tree.pid()))),
        }
    }
}

/// Exit code that stands for one that cannot be known.
const UNKNOWN: i32 = 255;
