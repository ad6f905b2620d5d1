//! The draft: what `/proc` shows of a tree while it runs, as the records of a capture.

use super::{Seen, Tracking};
use crate::capture::memory::{self, Objects};
use crate::capture::relations::{self, Kin};
use crate::capture::{Error, ObjectKey, SpaceAnswers, space};
use crate::records::task::Thread;
use crate::records::{Backing, Space, State, VERSION};
use ferry_sys::proc::maps::Mapping;
use ferry_transfer::access::{SpaceAccess, Via};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::collections::HashMap;

impl Tracking {
    /// Reads the records of those processes that are still there at the end, and where their objects are.
    pub(super) fn draft(
        &mut self,
        seen: &[Seen],
        left_out: &dyn Fn(&Mapping) -> bool,
    ) -> Result<(State, Vec<SpaceAccess>), Error> {
        let mut objects = Objects::new(self.numbers.clone(), false);
        let mut spaces: HashMap<i32, Space> = HashMap::new();
        let mut keys: HashMap<u32, ObjectKey> = HashMap::new();
        for one in seen.iter().filter(|one| one.alive) {
            let pid = one.ids.host_pid;
            let read = self.space(one, left_out, &mut objects, &mut keys);
            if self.known.get(&pid).is_none_or(|known| !known.identity.is_of(pid)) {
                // Whatever was read is of a process that has ended or of a program that is no more.
                self.forget(pid);
                objects.numbers.forget_space(pid);
                continue;
            }
            spaces.insert(pid, read?);
        }
        let lasting: Vec<Kin<'_>> = seen
            .iter()
            .filter(|one| !one.alive || spaces.contains_key(&one.ids.host_pid))
            .map(Seen::kin)
            .collect();
        let mut state = State { version: VERSION, ..State::default() };
        for at in relations::parents_first(&lasting) {
            let mut task = relations::task(&lasting, at);
            if let Some(space) = spaces.remove(&lasting[at].ids.host_pid) {
                task.threads = vec![Thread { tid: task.pid, ..Thread::default() }];
                task.space = Some(space.id);
                state.spaces.push(space);
            }
            state.tasks.push(task);
        }
        // An object that only a process has mapped which is gone is none of the draft.
        let used = |id: u32| {
            let mut vmas = state.spaces.iter().flat_map(|space| &space.vmas);
            vmas.any(|vma| matches!(vma.backing, Backing::Object { id: other, .. } if other == id))
        };
        objects.found.retain(|object| used(object.id));
        objects.access.retain(|access| used(access.space.0));
        self.hold(&objects, &keys);
        self.numbers = objects.numbers;
        let held = &self.objects;
        self.numbers.keep_objects(|key| held.contains_key(key));
        state.objects = objects.found;
        Ok((state, objects.access))
    }

    /// The record of one address space.
    fn space(
        &mut self,
        one: &Seen,
        left_out: &dyn Fn(&Mapping) -> bool,
        objects: &mut Objects,
        keys: &mut HashMap<u32, ObjectKey>,
    ) -> Result<Space, Error> {
        let (pid, ns_pid) = (one.ids.host_pid, one.ids.ns_pid);
        let Some(known) = self.known.get_mut(&pid) else { return Err(Error::Empty) };
        let mut maps = memory::mappings(pid)?;
        let flags = known.flags.of(pid, &maps);
        // Flags may be of another moment than the mappings: what is not known has none, until the next draft.
        let advice = maps.iter().map(|mapping| {
            let place = (mapping.start, mapping.end);
            (place, flags.get(&place).copied().unwrap_or_default())
        });
        let advice = advice.collect();
        let brk = maps.iter().filter(|mapping| mapping.name == b"[heap]").map(|mapping| mapping.end).max();
        let answers =
            SpaceAnswers { brk: brk.unwrap_or(one.stat.data.2), dumpable: 1, ..SpaceAnswers::default() };
        let early: Vec<Mapping> = maps.iter().filter(|mapping| !left_out(mapping)).cloned().collect();
        let mut record = memory::describe((pid, ns_pid), &early, Some(&advice), objects)?;
        for (vma, mapping) in record.vmas.iter().zip(&early) {
            if let Backing::Object { id, .. } = vma.backing {
                keys.insert(id, (mapping.device, mapping.inode));
            }
        }
        maps.retain(|mapping| mapping.name.starts_with(b"[v"));
        space::fill(&mut record, pid, &one.stat, &maps, &answers)?;
        Ok(record)
    }

    /// Holds the objects of this draft, and lets go of those of the one before.
    fn hold(&mut self, objects: &Objects, keys: &HashMap<u32, ObjectKey>) {
        let mut held: HashMap<ObjectKey, OwnedFd> = HashMap::new();
        for access in &objects.access {
            let (Some(key), Via::File { path }) = (keys.get(&access.space.0), &access.via) else { continue };
            let before = self.objects.remove(key);
            let opened = || rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
            if let Some(fd) = before.or_else(opened) {
                held.insert(*key, fd);
            }
        }
        self.objects = held;
    }
}
