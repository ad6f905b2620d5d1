//! What the kernel does with missing memory: who waits, what is told, and what happens when nobody holds it any more.

use ferry_transfer::pager::{Happening, Placed, Resident};
use ferry_transfer::space::PAGE_SIZE;
use std::cell::RefCell;
use std::io;

/// Pages that a process can have; the last one is free at first.
pub const PAGES: usize = 3;

/// What the source has in the pages: the second was never touched.
pub const CONTENT: [u8; PAGES] = [11, 0, 0];

/// What is in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    Unmapped,
    /// Mapped, with nothing in it: missing for as long as somebody holds the memory, else zero.
    Empty,
    Byte(u8),
}

/// What a thread of it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Thread {
    Runs,
    /// Waits for a page.
    Waits(usize),
    /// Waits until what it does is heard.
    Tells(Change),
    /// Has been heard; the kernel still refuses pages.
    Heard(Change),
    /// Gives the page back next.
    GivesBack(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    GiveBack(usize),
    Move,
    Fork,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    Fault(usize),
    GiveBack(usize),
    Move(usize, usize),
    Fork(usize),
}

/// Who has a descriptor of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Held {
    pub pager: bool,
    pub shim: bool,
    pub init: bool,
}

impl Held {
    pub fn by_somebody(self) -> bool {
        self.pager || self.shim || self.init
    }
}

/// The address space of a process with two threads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Memory {
    pub pages: [Slot; PAGES],
    /// What would be read without the move.
    pub ideal: [u8; PAGES],
    pub threads: [Thread; 2],
    /// Not read yet.
    pub told: Vec<Told>,
    pub held: Held,
    /// False: a child that runs once its parent's fork was heard.
    pub born: bool,
}

impl Memory {
    /// Whether a thread is about to give this page back: who touches it meanwhile may read what was there, or zero.
    fn gives_back(&self, page: usize) -> bool {
        self.threads.iter().any(|thread| match thread {
            Thread::Tells(Change::GiveBack(gives)) | Thread::Heard(Change::GiveBack(gives)) => *gives == page,
            Thread::GivesBack(gives) => *gives == page,
            _ => false,
        })
    }
}

/// All of it, with what was read of the events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kernel {
    pub memories: Vec<Memory>,
    /// In memory that the pager and the shim share.
    pub ring: Vec<(usize, Told)>,
    /// How much of the ring the pager has taken in, for each memory.
    pub taken: Vec<usize>,
    pub broken: Option<&'static str>,
    /// The pager's descriptors are the shim's, too.
    pub one_table: bool,
}

impl Kernel {
    pub fn new(one_table: bool) -> Self {
        let first = Memory {
            pages: [Slot::Empty, Slot::Empty, Slot::Unmapped],
            ideal: CONTENT,
            threads: [Thread::Runs; 2],
            told: Vec::new(),
            held: Held { pager: true, shim: true, init: true },
            born: true,
        };
        Self { memories: vec![first], taken: vec![0], one_table, ..Self::default() }
    }

    pub fn touch(&mut self, at: usize, thread: usize, page: usize) {
        let memory = &mut self.memories[at];
        match memory.pages[page] {
            // Its program would be told by a signal.
            Slot::Unmapped => memory.threads[thread] = Thread::Runs,
            Slot::Byte(byte) => {
                if byte != memory.ideal[page] && !memory.gives_back(page) {
                    self.broken = Some(if byte == 0 { "zeros were read" } else { "something old was read" });
                }
                memory.threads[thread] = Thread::Runs;
            }
            Slot::Empty if memory.held.by_somebody() => {
                memory.threads[thread] = Thread::Waits(page);
                memory.told.push(Told::Fault(page));
            }
            Slot::Empty => {
                memory.pages[page] = Slot::Byte(0);
                self.touch(at, thread, page);
            }
        }
    }

    pub fn begin(&mut self, at: usize, thread: usize, change: Change) {
        let child = self.memories.len();
        let memory = &mut self.memories[at];
        match change {
            // Told first, done afterwards.
            Change::GiveBack(page) => memory.told.push(Told::GiveBack(page)),
            Change::Move => {
                let from = if memory.pages[0] == Slot::Unmapped { 2 } else { 0 };
                let to = 2 - from;
                memory.pages.swap(from, to);
                memory.ideal.swap(from, to);
                memory.told.push(Told::Move(from, to));
            }
            Change::Fork => {
                memory.told.push(Told::Fork(child));
                let threads = [Thread::Runs; 2];
                let held = Held::default();
                let young = Memory { threads, told: Vec::new(), held, born: false, ..memory.clone() };
                memory.threads[thread] = Thread::Tells(change);
                self.memories.push(young);
                self.taken.push(0);
                self.unheard();
                return;
            }
        }
        memory.threads[thread] = Thread::Tells(change);
        self.unheard();
    }

    /// A thread that was heard goes on.
    pub fn go_on(&mut self, at: usize, thread: usize) {
        let memory = &mut self.memories[at];
        memory.threads[thread] = match memory.threads[thread] {
            Thread::Heard(Change::GiveBack(page)) => Thread::GivesBack(page),
            Thread::GivesBack(page) => {
                if memory.pages[page] != Slot::Unmapped {
                    memory.pages[page] = Slot::Empty;
                    memory.ideal[page] = 0;
                }
                Thread::Runs
            }
            _ => Thread::Runs,
        };
    }

    /// Who tells something of memory that nobody holds waits for nobody; who waits for a page of it gets zeros.
    pub fn unheard(&mut self) {
        for at in 0..self.memories.len() {
            let memory = &mut self.memories[at];
            if memory.held.by_somebody() || !memory.born {
                continue;
            }
            let told = std::mem::take(&mut memory.told);
            for thread in 0..2 {
                match self.memories[at].threads[thread] {
                    Thread::Waits(page) => self.touch(at, thread, page),
                    Thread::Tells(change) => self.memories[at].threads[thread] = Thread::Heard(change),
                    _ => {}
                }
            }
            for told in told {
                if let Told::Fork(child) = told {
                    self.memories[child].born = true;
                }
            }
        }
    }

    /// Somebody has died.
    pub fn let_go(&mut self, who: impl Fn(&mut Held)) {
        for memory in &mut self.memories {
            who(&mut memory.held);
        }
        self.unheard();
    }

    /// Who waits for such a page touches it again.
    pub fn wake(&mut self, at: usize, page: impl Fn(usize) -> bool) {
        for thread in 0..2 {
            if let Thread::Waits(waits) = self.memories[at].threads[thread]
                && page(waits)
            {
                self.memories[at].told.retain(|told| *told != Told::Fault(waits));
                self.touch(at, thread, waits);
            }
        }
    }

    /// Reads what is told, into the ring.
    fn read(&mut self, at: usize, shim: bool) {
        for told in std::mem::take(&mut self.memories[at].told) {
            self.ring.push((at, told));
            if let Told::Fork(child) = told {
                let held = Held { pager: true, shim: self.one_table && shim, init: false };
                (self.memories[child].held, self.memories[child].born) = (held, true);
            }
            let kind = |change: Change| match (change, told) {
                (Change::GiveBack(page), Told::GiveBack(told)) => page == told,
                (Change::Move, Told::Move(..)) | (Change::Fork, Told::Fork(_)) => true,
                _ => false,
            };
            let threads = &mut self.memories[at].threads;
            let heard =
                threads.iter_mut().find(|thread| matches!(thread, Thread::Tells(change) if kind(*change)));
            if let Some(thread) = heard
                && let Thread::Tells(change) = *thread
            {
                *thread = Thread::Heard(change);
            }
        }
    }

    fn is_changing(&self, at: usize) -> bool {
        let threads = self.memories[at].threads.iter();
        threads.clone().any(|thread| matches!(thread, Thread::Tells(_) | Thread::Heard(_)))
    }
}

thread_local! {
    /// The kernel that the pager of this thread talks to, and whether the shim is there.
    pub static NOW: RefCell<(Kernel, bool)> = RefCell::default();
}

/// One memory, as the pager has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub usize);

impl Resident for Handle {
    fn happenings(&mut self) -> io::Result<Vec<Happening<Self>>> {
        NOW.with_borrow_mut(|(kernel, shim)| {
            kernel.read(self.0, *shim);
            let mine = kernel.ring.iter().filter(|(at, _)| *at == self.0).skip(kernel.taken[self.0]);
            let happenings: Vec<_> = mine.map(|(_, told)| happening(*told)).collect();
            kernel.taken[self.0] += happenings.len();
            Ok(happenings)
        })
    }

    fn place(&self, address: u64, bytes: &[u8]) -> io::Result<Placed> {
        NOW.with_borrow_mut(|(kernel, _)| {
            let page = (address / PAGE_SIZE) as usize;
            if kernel.is_changing(self.0) {
                return Ok(Placed::Changing);
            }
            match kernel.memories[self.0].pages[page] {
                Slot::Unmapped => Ok(Placed::NoMapping),
                Slot::Byte(_) => Ok(Placed::Present),
                Slot::Empty => {
                    kernel.memories[self.0].pages[page] = Slot::Byte(bytes[0]);
                    for thread in 0..2 {
                        if kernel.memories[self.0].threads[thread] == Thread::Waits(page) {
                            kernel.touch(self.0, thread, page);
                        }
                    }
                    Ok(Placed::Bytes(PAGE_SIZE))
                }
            }
        })
    }

    fn place_zero(&self, address: u64, _len: u64) -> io::Result<Placed> {
        self.place(address, &[0; PAGE_SIZE as usize])
    }

    fn wake(&self, address: u64, len: u64) -> io::Result<()> {
        let pages = (address / PAGE_SIZE) as usize..((address + len) / PAGE_SIZE) as usize;
        NOW.with_borrow_mut(|(kernel, _)| kernel.wake(self.0, |page| pages.contains(&page)));
        Ok(())
    }
}

fn happening(told: Told) -> Happening<Handle> {
    let address = |page: usize| page as u64 * PAGE_SIZE;
    match told {
        Told::Fault(page) => Happening::Fault { address: address(page) },
        Told::Fork(child) => Happening::Fork { child: Handle(child) },
        Told::Move(from, to) => Happening::Remap { from: address(from), to: address(to), len: PAGE_SIZE },
        Told::GiveBack(page) => Happening::Forget { start: address(page), end: address(page + 1) },
    }
}
