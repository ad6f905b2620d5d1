//! Processes with invented memory. Each page is one byte; beside what is there stands what would be there without the move.

use ferry_transfer::pager::{Happening, Placed, Resident};
use ferry_transfer::space::PAGE_SIZE;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

/// Pages that a process can have.
pub const PAGES: u64 = 24;

/// Pages after which another mapping begins, whatever is unmapped.
const MAPPING_PAGES: u64 = 7;

/// Most processes.
const PROCESSES_MAX: usize = 4;

/// What the source has in a page.
pub fn content(page: u64) -> u8 {
    page as u8 + 1
}

/// What a program does. Pages are taken modulo [`PAGES`], processes modulo those that there are.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Touch { process: usize, page: u64 },
    Write { process: usize, page: u64, byte: u8 },
    GiveBack { process: usize, page: u64, pages: u64 },
    Unmap { process: usize, page: u64, pages: u64 },
    Move { process: usize, page: u64, pages: u64, to: u64 },
    Fork { process: usize },
}

pub fn any_op() -> impl Strategy<Value = Op> {
    let part = || (0..PROCESSES_MAX, 0..PAGES, 1..6_u64);
    prop_oneof![
        6 => (0..PROCESSES_MAX, 0..PAGES).prop_map(|(process, page)| Op::Touch { process, page }),
        3 => (0..PROCESSES_MAX, 0..PAGES, 100..u8::MAX)
            .prop_map(|(process, page, byte)| Op::Write { process, page, byte }),
        2 => part().prop_map(|(process, page, pages)| Op::GiveBack { process, page, pages }),
        1 => part().prop_map(|(process, page, pages)| Op::Unmap { process, page, pages }),
        2 => (part(), 0..PAGES)
            .prop_map(|((process, page, pages), to)| Op::Move { process, page, pages, to }),
        1 => (0..PROCESSES_MAX).prop_map(|process| Op::Fork { process }),
    ]
}

/// One process.
#[derive(Clone, Default)]
struct Process {
    mapped: BTreeSet<u64>,
    there: BTreeMap<u64, u8>,
    ideal: BTreeMap<u64, u8>,
    /// What it waits for: a page, and what it will write there.
    waits: Option<(u64, Option<u8>)>,
    /// Told to the pager when it looks.
    told: Vec<Told>,
}

#[derive(Clone, Copy)]
enum Told {
    Fault(u64),
    Fork(usize),
    Remap(u64, u64, u64),
    /// Given back once it is read: the kernel tells first.
    GiveBack(u64, u64),
    Unmap(u64, u64),
}

impl Process {
    /// Whether it stands still at something that the pager has not read.
    fn is_changing(&self) -> bool {
        self.told.iter().any(|told| !matches!(told, Told::Fault(_)))
    }

    fn access(&mut self, page: u64, write: Option<u8>, wrong: &mut Option<String>) {
        if !self.mapped.contains(&page) {
            return;
        }
        match self.there.get_mut(&page) {
            None => {
                self.waits = Some((page, write));
                self.told.push(Told::Fault(page * PAGE_SIZE));
            }
            Some(byte) => {
                let ideal = self.ideal.get(&page).copied().unwrap_or(0);
                if *byte != ideal {
                    *wrong = Some(format!("page {page} read {byte}, not {ideal}"));
                }
                if let Some(write) = write {
                    *byte = write;
                    self.ideal.insert(page, write);
                }
            }
        }
    }

    /// Who waits for a page that has come goes on.
    fn go_on(&mut self, wrong: &mut Option<String>) {
        if let Some((page, write)) = self.waits
            && self.there.contains_key(&page)
        {
            self.waits = None;
            self.access(page, write, wrong);
        }
    }
}

#[derive(Default)]
struct Inner {
    processes: Vec<Process>,
    wrong: Option<String>,
}

/// All processes.
pub struct World(Rc<RefCell<Inner>>);

/// One of them, as the pager sees it.
pub struct Memory {
    world: Rc<RefCell<Inner>>,
    process: usize,
}

impl World {
    /// One process, all of whose pages are mapped; of these `missing` had content at the source.
    pub fn new(missing: &[u64]) -> Self {
        let ideal = missing.iter().map(|page| (*page, content(*page))).collect();
        let process = Process { mapped: (0..PAGES).collect(), ideal, ..Process::default() };
        Self(Rc::new(RefCell::new(Inner { processes: vec![process], wrong: None })))
    }

    pub fn first(&self) -> Memory {
        Memory { world: self.0.clone(), process: 0 }
    }

    /// The first thing that was read and should not have been.
    pub fn wrong(&self) -> Option<String> {
        self.0.borrow().wrong.clone()
    }

    /// Whether nobody waits, for a page or for an event to be read.
    pub fn is_quiet(&self) -> bool {
        self.0.borrow().processes.iter().all(|process| process.waits.is_none() && process.told.is_empty())
    }

    /// A page of any process that is not what it would be. A page that is not there reads as zero once nobody serves it.
    pub fn differs(&self) -> Option<String> {
        for (number, process) in self.0.borrow().processes.iter().enumerate() {
            for page in &process.mapped {
                let (there, ideal) = (process.there.get(page), process.ideal.get(page));
                if there.unwrap_or(&0) != ideal.unwrap_or(&0) {
                    return Some(format!("page {page} of process {number} is {there:?}, not {ideal:?}"));
                }
            }
        }
        None
    }

    pub fn act(&self, op: Op) {
        let inner = &mut *self.0.borrow_mut();
        let count = inner.processes.len();
        let (Op::Touch { process, .. }
        | Op::Write { process, .. }
        | Op::GiveBack { process, .. }
        | Op::Unmap { process, .. }
        | Op::Move { process, .. }
        | Op::Fork { process }) = op;
        let number = process % count;
        // A second thread does what changes mappings while the first waits for a page.
        let process = &mut inner.processes[number];
        if process.is_changing() {
            return;
        }
        let part = |page: u64, pages: u64| (page, (page + pages).min(PAGES));
        match op {
            Op::Touch { page, .. } if process.waits.is_none() => process.access(page, None, &mut inner.wrong),
            Op::Write { page, byte, .. } if process.waits.is_none() => {
                process.access(page, Some(byte), &mut inner.wrong);
            }
            Op::Touch { .. } | Op::Write { .. } => {}
            Op::GiveBack { page, pages, .. } => {
                let (start, end) = part(page, pages);
                process.told.push(Told::GiveBack(start, end));
            }
            Op::Unmap { page, pages, .. } => {
                let (start, end) = part(page, pages);
                process.unmap(start, end);
                process.told.push(Told::Unmap(start, end));
            }
            Op::Move { page, pages, to, .. } => {
                let (start, end) = part(page, pages);
                let len = (end - start).min(PAGES - to);
                let apart = to + len <= start || start + len <= to;
                if apart && (start..start + len).all(|page| process.mapped.contains(&page)) {
                    process.unmap(to, to + len);
                    process.told.push(Told::Unmap(to, to + len));
                    process.relocate(start, to, len);
                    process.told.push(Told::Remap(start, to, len));
                }
            }
            Op::Fork { .. } if count < PROCESSES_MAX => {
                process.told.push(Told::Fork(count));
                let child = Process { waits: None, told: Vec::new(), ..process.clone() };
                inner.processes.push(child);
            }
            Op::Fork { .. } => {}
        }
    }
}

impl Process {
    fn unmap(&mut self, start: u64, end: u64) {
        for page in start..end {
            self.mapped.remove(&page);
            self.there.remove(&page);
            self.ideal.remove(&page);
            // Whoever waits there is ended by the kernel; here it forgets.
            self.waits = self.waits.filter(|(waits, _)| *waits != page);
        }
    }

    fn relocate(&mut self, from: u64, to: u64, len: u64) {
        for offset in 0..len {
            self.mapped.remove(&(from + offset));
            self.mapped.insert(to + offset);
            for map in [&mut self.there, &mut self.ideal] {
                if let Some(byte) = map.remove(&(from + offset)) {
                    map.insert(to + offset, byte);
                }
            }
            self.waits = self.waits.filter(|(waits, _)| *waits != from + offset);
        }
    }
}

impl Resident for Memory {
    fn happenings(&mut self) -> io::Result<Vec<Happening<Self>>> {
        let inner = &mut *self.world.borrow_mut();
        let process = &mut inner.processes[self.process];
        let told = std::mem::take(&mut process.told);
        let bytes =
            |start: u64, end: u64| Happening::Forget { start: start * PAGE_SIZE, end: end * PAGE_SIZE };
        let mut happenings = Vec::new();
        for each in told {
            happenings.push(match each {
                Told::Fault(address) => Happening::Fault { address },
                Told::Fork(process) => Happening::Fork { child: Self { world: self.world.clone(), process } },
                Told::Remap(from, to, len) => {
                    Happening::Remap { from: from * PAGE_SIZE, to: to * PAGE_SIZE, len: len * PAGE_SIZE }
                }
                Told::GiveBack(start, end) => {
                    for page in start..end {
                        process.there.remove(&page);
                        process.ideal.remove(&page);
                    }
                    bytes(start, end)
                }
                Told::Unmap(start, end) => bytes(start, end),
            });
        }
        Ok(happenings)
    }

    fn place(&self, address: u64, bytes: &[u8]) -> io::Result<Placed> {
        let inner = &mut *self.world.borrow_mut();
        let process = &mut inner.processes[self.process];
        if process.is_changing() {
            return Ok(Placed::Changing);
        }
        let page = address / PAGE_SIZE;
        // As the kernel answers for pages that are not all of one mapping.
        let last = page + bytes.len() as u64 / PAGE_SIZE - 1;
        let whole = (page..=last).all(|page| process.mapped.contains(&page));
        if !whole || page / MAPPING_PAGES != last / MAPPING_PAGES {
            return Ok(Placed::NoMapping);
        }
        if process.there.contains_key(&page) {
            return Ok(Placed::Present);
        }
        // One page at a time, as the kernel may.
        process.there.insert(page, bytes[0]);
        process.go_on(&mut inner.wrong);
        Ok(Placed::Bytes(PAGE_SIZE))
    }

    fn place_zero(&self, address: u64, len: u64) -> io::Result<Placed> {
        self.place(address, &vec![0; len as usize])
    }

    fn wake(&self, address: u64, len: u64) -> io::Result<()> {
        let process = &mut self.world.borrow_mut().processes[self.process];
        if let Some((page, _)) = process.waits
            && (address..address + len).contains(&(page * PAGE_SIZE))
        {
            process.told.push(Told::Fault(page * PAGE_SIZE));
        }
        Ok(())
    }
}
