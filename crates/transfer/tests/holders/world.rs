//! A workload in missing memory, its pager, shim and init, and the source: what each can do next, and who can die.

use crate::kernel::{CONTENT, Change, Handle, Kernel, NOW, PAGES, Slot, Thread, Told};
use ferry_transfer::pager::{Absent, Pager, Wanted};
use ferry_transfer::space::{PAGE_SIZE, Range, SpaceId};
use std::collections::BTreeSet;

const SPACE: SpaceId = SpaceId(7);

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// The pager has descriptors of its own, and gives the shim a copy of a child's later.
    TwoTables,
    /// What the pager has read is in its own memory.
    PrivateRing,
    /// Who waits is not woken when another pager begins.
    NobodyWoken,
    /// The capsule's init holds nothing.
    NoThirdHolder,
    /// The source ends when the workload runs.
    SourceEndsEarly,
    /// That all is there is known to the pager alone.
    CompletionForgotten,
    /// Another pager places pages before it has taken in all that was read.
    PlacesBeforeReplay,
}

/// How often each may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    pub pagers: u8,
    pub shims: u8,
    pub links: u8,
    pub touches: u8,
    pub changes: u8,
    pub forks: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub kernel: Kernel,
    pub pager: Option<Pager<Handle>>,
    pub shim: bool,
    /// Asked of the source, or on its way.
    pub wire: BTreeSet<Wanted>,
    /// The source still has its frozen copy.
    pub source: bool,
    /// In the shared memory stands that everything is there.
    pub done: bool,
    pub left: Left,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Touch {
        at: usize,
        thread: usize,
        page: usize,
    },
    Change {
        at: usize,
        thread: usize,
        change: Change,
    },
    GoOn {
        at: usize,
        thread: usize,
    },
    /// The pager takes in what happened; `cut`: it is killed when it has read it.
    Hear {
        cut: bool,
    },
    /// Something comes; `cut`: the pager is killed when it is in its place.
    Arrive {
        wanted: Wanted,
        cut: bool,
    },
    Ask,
    HandOver {
        at: usize,
    },
    KillPager,
    KillShim,
    CutLink,
    NewPager,
    NewShim,
    /// Everything is there, and that is written down.
    Done,
    SourceEnds,
}

fn initial() -> Pager<Handle> {
    let missing = Range { start: 0, len: PAGE_SIZE };
    Pager::new(vec![(Handle(0), Absent::new(SPACE, &[missing]))])
}

impl World {
    pub fn new(broken: Broken, left: Left) -> Self {
        let mut kernel = Kernel::new(broken != Broken::TwoTables);
        kernel.memories[0].held.init = broken != Broken::NoThirdHolder;
        Self {
            kernel,
            pager: Some(initial()),
            shim: true,
            wire: BTreeSet::new(),
            source: true,
            done: false,
            left,
        }
    }

    pub fn is_complete(&self) -> bool {
        let read = self.kernel.memories.iter().all(|memory| memory.told.is_empty());
        read && self.pager.as_ref().is_some_and(|pager| pager.is_complete() && !pager.is_behind())
    }

    pub fn actions(&self, broken: Broken) -> Vec<Action> {
        let mut all = Vec::new();
        for (at, memory) in self.kernel.memories.iter().enumerate().filter(|(_, memory)| memory.born) {
            for (thread, doing) in memory.threads.iter().enumerate() {
                match doing {
                    Thread::Runs => {
                        if self.left.touches > 0 {
                            let pages = (0..PAGES).filter(|page| memory.pages[*page] != Slot::Unmapped);
                            all.extend(pages.map(|page| Action::Touch { at, thread, page }));
                        }
                        // One of them changes mappings; the other only ever touches them.
                        if thread == 1 && self.left.changes > 0 {
                            let here = if memory.pages[0] == Slot::Unmapped { 2 } else { 0 };
                            let changes = [Change::GiveBack(here), Change::Move];
                            all.extend(changes.map(|change| Action::Change { at, thread, change }));
                        }
                        if thread == 1 && self.left.forks > 0 {
                            all.push(Action::Change { at, thread, change: Change::Fork });
                        }
                    }
                    Thread::Heard(_) | Thread::GivesBack(_) => all.push(Action::GoOn { at, thread }),
                    Thread::Waits(_) | Thread::Tells(_) => {}
                }
            }
            let held = memory.held;
            let to_init = held.shim && !held.init && broken != Broken::NoThirdHolder;
            if self.shim && (to_init || (held.pager && !held.shim)) {
                all.push(Action::HandOver { at });
            }
        }
        if let Some(pager) = &self.pager {
            // Without a shim it may be killed only while it learns of no child.
            let no_child = self.kernel.memories.iter().all(|memory| memory.born);
            let may_die = self.left.pagers > 0 && (self.shim || (no_child && self.is_with_init(broken)));
            let cuts = if may_die { vec![false, true] } else { vec![false] };
            all.extend(cuts.iter().map(|cut| Action::Hear { cut: *cut }));
            let arrive = |wanted: &Wanted| {
                cuts.iter()
                    .map(|cut| Action::Arrive { wanted: wanted.clone(), cut: *cut })
                    .collect::<Vec<_>>()
            };
            if self.source {
                all.extend(self.wire.iter().flat_map(arrive));
            }
            if pager.clone().background(u64::MAX).is_some() {
                all.push(Action::Ask);
            }
            if may_die {
                all.push(Action::KillPager);
            }
            if self.left.links > 0 {
                all.push(Action::CutLink);
            }
        } else if self.shim {
            all.push(Action::NewPager);
        }
        match self.shim {
            true if self.left.shims > 0 && (self.pager.is_some() || self.is_with_init(broken)) => {
                all.push(Action::KillShim);
            }
            true => {}
            false => all.push(Action::NewShim),
        }
        if self.is_complete() && !self.done {
            all.push(Action::Done);
        }
        let ends = self.done || broken == Broken::SourceEndsEarly;
        if self.source && ends {
            all.push(Action::SourceEnds);
        }
        all
    }

    /// Whether init holds everything. Else pager and shim must not both be dead: a child whose memory init was not given yet
    /// would read zeros. This is the one exception, and takes two deaths within a moment.
    fn is_with_init(&self, broken: Broken) -> bool {
        broken == Broken::NoThirdHolder
            || self.kernel.memories.iter().all(|memory| memory.held.init || !memory.born)
    }

    pub fn apply(&mut self, action: &Action, broken: Broken) {
        match action {
            Action::Touch { at, thread, page } => {
                self.left.touches -= 1;
                self.kernel.touch(*at, *thread, *page);
            }
            Action::Change { at, thread, change } => {
                if *change == Change::Fork {
                    self.left.forks -= 1;
                } else {
                    self.left.changes -= 1;
                }
                self.kernel.begin(*at, *thread, *change);
            }
            Action::GoOn { at, thread } => self.kernel.go_on(*at, *thread),
            Action::Hear { cut } => {
                let wanted = self.page(|pager| pager.hear().expect("it can be heard"));
                if !cut {
                    self.wire.extend(wanted);
                }
                self.cut(*cut, broken);
            }
            Action::Arrive { wanted, cut } => {
                self.wire.remove(wanted);
                for range in &wanted.ranges {
                    let bytes = vec![CONTENT[(range.start / PAGE_SIZE) as usize]; range.len as usize];
                    let more = self.page(|pager| {
                        pager.arrive(wanted.space, range.start, &bytes).expect("it can be placed")
                    });
                    if !cut {
                        self.wire.extend(more);
                    }
                }
                self.cut(*cut, broken);
            }
            Action::Ask => {
                let wanted = self.page(|pager| pager.background(u64::MAX));
                self.wire.extend(wanted);
            }
            Action::HandOver { at } => {
                let held = &mut self.kernel.memories[*at].held;
                held.init = held.shim && broken != Broken::NoThirdHolder;
                held.shim = true;
            }
            Action::KillPager => self.cut(true, broken),
            Action::KillShim => {
                self.left.shims -= 1;
                self.shim = false;
                self.kernel.let_go(|held| held.shim = false);
            }
            Action::CutLink => {
                self.left.links -= 1;
                self.wire.clear();
                self.page(Pager::ask_again);
            }
            Action::NewPager => self.new_pager(broken),
            Action::NewShim => {
                // It gets everything from the pager, which ends; or from init, if that one has died, too.
                self.shim = true;
                for memory in &mut self.kernel.memories {
                    memory.held.shim = memory.held.pager || memory.held.init;
                }
                self.kernel.let_go(|held| held.pager = false);
                self.pager = None;
                self.wire.clear();
            }
            Action::Done => self.done = true,
            Action::SourceEnds => self.source = false,
        }
    }

    /// Has the pager do something.
    fn page<T>(&mut self, what: impl FnOnce(&mut Pager<Handle>) -> T) -> T {
        NOW.set((std::mem::take(&mut self.kernel), self.shim));
        let done = what(self.pager.as_mut().expect("there is a pager"));
        self.kernel = NOW.take().0;
        done
    }

    fn cut(&mut self, cut: bool, broken: Broken) {
        if cut {
            self.left.pagers -= 1;
            self.pager = None;
            self.wire.clear();
            if broken == Broken::PrivateRing {
                self.kernel.ring.clear();
            }
            self.kernel.let_go(|held| held.pager = false);
        }
    }

    /// From what was missing at first, and all that was ever read.
    fn new_pager(&mut self, broken: Broken) {
        let all = self.done && broken != Broken::CompletionForgotten;
        // A snapshot of what is missing knows of nobody who waits.
        self.kernel.ring.retain(|(_, told)| !matches!(told, Told::Fault(_)));
        self.pager = Some(if all { Pager::new(vec![(Handle(0), Absent::default())]) } else { initial() });
        for (memory, taken) in self.kernel.memories.iter_mut().zip(&mut self.kernel.taken) {
            *taken = 0;
            memory.held.pager = memory.held.shim;
        }
        if broken != Broken::NobodyWoken {
            for at in 0..self.kernel.memories.len() {
                self.kernel.wake(at, |_| true);
            }
        }
        if broken != Broken::PlacesBeforeReplay {
            let wanted = self.page(|pager| pager.hear().expect("it can be heard"));
            self.wire.extend(wanted);
        }
    }

    /// Whether nobody waits for anything, everything is there, and it is what it would be.
    pub fn is_well(&self) -> bool {
        let memories = self.kernel.memories.iter();
        self.is_complete()
            && memories.clone().all(|memory| {
                let pages = memory.pages.iter().zip(memory.ideal);
                memory.threads.iter().all(|thread| *thread == Thread::Runs)
                    && pages.clone().all(|(page, ideal)| match page {
                        Slot::Byte(byte) => *byte == ideal,
                        Slot::Empty => ideal == 0,
                        Slot::Unmapped => true,
                    })
            })
    }
}
