//! What the workload holds and Ferry has the far end of: its log, its terminal. Recognised at the source, bound again at the target.

use super::LOG;
use super::terminal::Terminal;
use super::workload::{Workload, no_capsule, unable};
use ferry_model::error::{Error, Kind, Result};
use ferry_process::capsule::Capsule;
use ferry_process::capture::TaskRef;
use ferry_process::capture::files::{self, FilesContext, Furniture, FurnitureKind, Held};
use ferry_process::inspect::host as outside;
use ferry_process::records::State;
use ferry_process::restore::Puppets;
use ferry_process::restore::files::{Recreated, RestoreContext};
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const LOG_NAME: &str = "log";
const TERMINAL_NAME: &str = "terminal";

impl Workload {
    /// What there is of it here.
    pub(super) fn furniture(&self) -> Vec<Furniture> {
        let mut furniture = Vec::new();
        if let Ok(log) = std::fs::metadata(self.dir.join(LOG)) {
            furniture
                .push(Furniture { name: LOG_NAME.into(), what: FurnitureKind::File(log.dev(), log.ino()) });
        }
        if let Some(number) = self.terminal.as_ref().and_then(Terminal::number) {
            furniture.push(Furniture { name: TERMINAL_NAME.into(), what: FurnitureKind::Terminal(number) });
        }
        if self.adopted.is_some() {
            // Whatever terminal it was started at: at the target it sits at one of Ferry's.
            let number = self.tasks().ok().and_then(|tasks| outside::terminal(&tasks));
            furniture.extend(number.map(|number| Furniture {
                name: TERMINAL_NAME.into(),
                what: FurnitureKind::Terminal(number),
            }));
        }
        furniture
    }

    /// Adds the descriptors of the stopped `tasks` to `state`. Connections are in repair mode afterwards.
    pub(super) fn capture_files(&self, tasks: &[TaskRef], state: &mut State) -> Result<Held> {
        let objects = state.objects.iter().map(|object| (object.device, object.inode)).collect();
        let furniture = self.furniture();
        let terminal = self.terminal.as_ref();
        let masters = terminal.and_then(|terminal| Some((terminal.number()?, terminal.master())));
        let masters = masters.into_iter().collect();
        let ctx = FilesContext { furniture: &furniture, masters, objects };
        let captured = files::capture(&refs(tasks), &ctx)?;
        state.files = captured.files;
        Ok(captured.held)
    }

    /// Makes the terminal that the workload sits at, unless it is there. Before the puppets: a session passes its terminal on
    /// by `fork` only.
    pub(super) fn open_terminal(&mut self, state: &State) -> Result<()> {
        let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
        let wanted =
            state.files.terminals.iter().any(|each| each.furniture.as_deref() == Some(TERMINAL_NAME));
        if wanted && self.terminal.is_none() {
            let size = super::Size { rows: 24, columns: 80 };
            let opened = Terminal::open(capsule.root_fd(), size);
            self.have_terminal(opened.map_err(|e| unable("The terminal could not be made", &e))?.0)?;
        }
        Ok(())
    }

    /// The workload's terminal from now on; the capsule's init holds it too, for the next shim.
    pub(super) fn have_terminal(&mut self, terminal: Terminal) -> Result<()> {
        self.capsule.as_mut().ok_or_else(no_capsule)?.keep(terminal.master().as_fd())?;
        self.terminal = Some(terminal);
        Ok(())
    }

    /// The terminal of the workload whose shim has died, from the capsule's init.
    pub(super) fn regain_terminal(&mut self) -> Result<()> {
        let has_one = self.record.as_ref().is_some_and(|record| record.spec.terminal.is_some());
        let Some(capsule) = self.capsule.as_mut().filter(|_| has_one) else { return Ok(()) };
        if let Some(master) = capsule.kept()? {
            let terminal = Terminal::from_master(master);
            self.terminal = Some(terminal.map_err(|e| unable("The terminal could not be taken over", &e))?);
        }
        Ok(())
    }

    /// Opens every description again, in the capsule.
    pub(super) fn restore_files(&mut self, state: &State, puppets: &Puppets) -> Result<Recreated> {
        self.open_terminal(state)?;
        let mut objects = BTreeMap::new();
        for object in &state.objects {
            if let Some(fd) = puppets.object(object.id) {
                objects.insert((object.device, object.inode), fd);
            }
        }
        let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
        Place { dir: &self.dir, capsule, terminal: self.terminal.as_ref() }.open(state, objects)
    }
}

/// Where descriptions are opened again.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub dir: &'a Path,
    pub capsule: &'a Capsule,
    /// The workload's, if it has one; it is open by now.
    pub terminal: Option<&'a Terminal>,
}

impl Place<'_> {
    /// Opens all. `objects`: memory objects, by what they were at the source.
    pub fn open(self, state: &State, objects: BTreeMap<(u64, u64), BorrowedFd<'_>>) -> Result<Recreated> {
        let log = OpenOptions::new().append(true).create(true).open(self.dir.join(LOG));
        let log = log.map_err(|e| unable("The log could not be opened", &e))?;
        let mut furniture = BTreeMap::from([(LOG_NAME.to_owned(), log.as_fd())]);
        if let Some(terminal) = self.terminal {
            furniture.insert(TERMINAL_NAME.to_owned(), terminal.fd());
        }
        let ctx = RestoreContext { init: Some(self.capsule.init_pid()), furniture, objects };
        Recreated::create(&state.files, &ctx).map_err(|e| Error::from_source(Kind::Unable, &e))
    }
}

pub(super) fn refs(tasks: &[TaskRef]) -> Vec<files::TaskRef> {
    tasks.iter().map(|task| files::TaskRef { host_pid: task.host_pid, ns_pid: task.ns_pid }).collect()
}
