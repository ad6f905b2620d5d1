//! Processors: where a thread may run, staying on one for a while, running a question on each of several.
#![allow(unsafe_code)]

use rustix::process::{getpriority_process, setpriority_process};
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::marker::PhantomData;

/// The processors on which a thread may run, as the kernel's masks have them: processor `n` is bit `n % 8` of byte `n / 8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity([u8; Affinity::BYTES]);

impl Affinity {
    /// Bytes of a mask: 8192 processors, the most that the kernel can be built for.
    pub const BYTES: usize = 1024;

    /// Every processor that there is or will be: of them the kernel takes those that the thread's cpuset allows.
    pub const ANYWHERE: Self = Self([0xff; Self::BYTES]);

    /// From the mask that `sched_getaffinity` gave; what is longer than [`Affinity::BYTES`] is left out.
    #[must_use]
    pub fn from_mask(mask: &[u8]) -> Self {
        let mut bytes = [0; Self::BYTES];
        bytes.iter_mut().zip(mask).for_each(|(place, byte)| *place = *byte);
        Self(bytes)
    }

    /// The mask, all of its bytes.
    #[must_use]
    pub fn mask(&self) -> &[u8] {
        &self.0
    }

    /// One processor alone.
    #[must_use]
    pub fn one(processor: usize) -> Self {
        let mut bytes = [0; Self::BYTES];
        if let Some(byte) = bytes.get_mut(processor / 8) {
            *byte = 1 << (processor % 8);
        }
        Self(bytes)
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(own, other)| own & other == *other)
    }
}

/// Where thread `tid` may run (0: the calling one).
///
/// # Errors
/// ESRCH when it is gone.
pub fn affinity(tid: i32) -> io::Result<Affinity> {
    let mut bytes = [0u8; Affinity::BYTES];
    // SAFETY: the kernel writes at most as many bytes as it is told that there are.
    match unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, bytes.len(), bytes.as_mut_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(Affinity(bytes)),
    }
}

/// Says where thread `tid` may run from now on (0: the calling one).
///
/// # Errors
/// EINVAL when no processor of this host that its cpuset allows is among them; EPERM for another user's thread; ESRCH.
pub fn set_affinity(tid: i32, affinity: &Affinity) -> io::Result<()> {
    // SAFETY: the kernel reads the live buffer only.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, affinity.0.len(), affinity.0.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The calling thread goes before others (the highest nice level) until this is dropped; where that is not allowed, as before. It must be
/// short, and whatever it makes meanwhile that lives longer begins with that level, too.
#[derive(Debug)]
pub struct Urgent {
    before: Option<i32>,
    /// It is of this thread.
    thread: PhantomData<*const ()>,
}

impl Urgent {
    /// From now on.
    #[must_use]
    pub fn begin() -> Self {
        let set = |nice: &i32| *nice > FIRST && setpriority_process(None, FIRST).is_ok();
        // With no process named, Linux means the calling thread.
        Self { before: getpriority_process(None).ok().filter(set), thread: PhantomData }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            let _ = setpriority_process(None, before);
        }
    }
}

/// The nice level that goes before all others.
const FIRST: i32 = -20;

/// As long as one of these lives, idle processors of this host wait for work without going to sleep, where the kernel offers that and
/// this process may ask for it (`/dev/cpu_dma_latency`); elsewhere nothing changes.
///
/// For some milliseconds in which one thread after the other takes over: each time a processor that sleeps is woken, which takes a
/// virtual machine some fifty microseconds and more. The kernel takes it back when the process ends, however it ends.
#[derive(Debug)]
pub struct Awake(
    #[expect(dead_code, reason = "what is asked for holds as long as this is open")] Option<File>,
);

impl Awake {
    /// From now on.
    #[must_use]
    pub fn begin() -> Self {
        let asked = || {
            let mut file = File::options().write(true).open("/dev/cpu_dma_latency")?;
            // The longest time that a processor may take to wake up, microseconds.
            file.write_all(&0i32.to_ne_bytes())?;
            Ok::<File, io::Error>(file)
        };
        Self(asked().ok())
    }
}

/// From now on the calling thread goes before everything that is not as urgent, as soon as it is woken: real-time, of the lowest
/// priority, in turns with its like; where that is not allowed, by the highest nice level. What it makes begins as usual.
///
/// For a thread that does little at a time and that somebody waits for: a nice level alone has it wait until the turn of whoever runs is
/// over, some milliseconds, and counts for nothing between control groups. The kernel leaves a twentieth of the time to others.
pub fn precede() {
    #[repr(C)]
    struct Parameters {
        priority: i32,
    }
    let parameters = Parameters { priority: 1 };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel reads one `sched_param`, which is an int; zero is the calling thread.
    let done = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) };
    if done != 0 {
        let _ = setpriority_process(None, FIRST);
    }
}

thread_local! {
    /// How many [`Stay`]s this thread has.
    static STAYS: Cell<u32> = const { Cell::new(0) };
}

/// Whether the calling thread stays on one processor now, with those that it takes turns with.
#[must_use]
pub fn stays() -> bool {
    STAYS.get() > 0
}

/// Keeps the calling thread on the processor that it is on, until it is dropped. Threads that it makes meanwhile stay there too.
///
/// For two tasks that take turns: on one processor the next goes on with a switch of contexts (some 2 µs), on two with the wake-up
/// of a processor that has gone to sleep, which in a virtual machine costs a multiple, and with a place in a queue where
/// others run.
#[derive(Debug)]
pub struct Stay {
    before: Affinity,
    here: Affinity,
    /// It is of this thread.
    thread: PhantomData<*const ()>,
}

impl Stay {
    /// From now on.
    ///
    /// # Errors
    /// As [`affinity`] and [`set_affinity`]; the thread may run where it might before.
    pub fn here() -> io::Result<Self> {
        let before = affinity(0)?;
        // SAFETY: no memory is involved.
        let processor =
            usize::try_from(unsafe { libc::sched_getcpu() }).map_err(|_| io::Error::last_os_error())?;
        let here = Affinity::one(processor);
        set_affinity(0, &here)?;
        STAYS.set(STAYS.get() + 1);
        Ok(Self { before, here, thread: PhantomData })
    }

    /// The processor, for others who are to come.
    #[must_use]
    pub fn processor(&self) -> &Affinity {
        &self.here
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        // It was allowed before; if the host has lost those processors meanwhile, the kernel moves threads by itself.
        let _ = set_affinity(0, &self.before);
        STAYS.set(STAYS.get() - 1);
    }
}

/// Runs `question` on each of `processors` (as far as this thread may run there), then goes back to where this thread may run.
pub fn on_each_processor<T>(
    processors: impl IntoIterator<Item = i32>,
    mut question: impl FnMut() -> T,
) -> HashMap<i32, T> {
    let mut answers = HashMap::new();
    // SAFETY: cpu_set_t is plain data; all sets outlive the calls, and processor numbers are checked against its size.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut allowed) != 0 {
            return answers;
        }
        for processor in processors {
            let Ok(number) = usize::try_from(processor) else { continue };
            if number >= libc::CPU_SETSIZE as usize || answers.contains_key(&processor) {
                continue;
            }
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(number, &mut one);
            if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one) == 0 {
                answers.insert(processor, question());
            }
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const allowed);
    }
    answers
}

/// Now, in nanoseconds of CLOCK_BOOTTIME.
#[must_use]
pub fn boottime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_is_and_is_free_again_afterwards() {
        // A thread of its own: the affinity of a test's thread is its own affair.
        std::thread::spawn(|| {
            let before = affinity(0).unwrap();
            let stay = Stay::here().unwrap();
            assert!(stays());
            assert_eq!(affinity(0).unwrap(), *stay.processor());
            assert!(before.covers(stay.processor()));
            drop(stay);
            assert!(!stays());
            assert_eq!(affinity(0).unwrap(), before);
            set_affinity(0, &Affinity::ANYWHERE).unwrap();
            assert!(affinity(0).unwrap().covers(&before));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_question_runs_where_it_was_asked_for() {
        // SAFETY: no memory is involved.
        let answers = on_each_processor([0], || unsafe { libc::sched_getcpu() });
        assert_eq!(answers.get(&0), Some(&0));
    }
}
