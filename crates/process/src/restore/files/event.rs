//! eventfd, timerfd, signalfd, epoll (empty: its targets are added by the task itself) and inotify.

use super::Error;
use crate::records::file::{Description, Kind, Timer, Watch};
use ferry_sys::ioctl;
use rustix::event::{EventfdFlags, epoll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

/// How far the workload's monotonic and boot clocks are ahead of this process's, nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ahead {
    monotonic: i128,
    boottime: i128,
}

impl Ahead {
    /// Reads it from /proc, so before this process goes where another /proc is.
    pub(crate) fn of(init: Option<i32>) -> Self {
        let Some(init) = init else { return Self::default() };
        let own = std::process::id() as i32;
        let ahead = |clock| crate::clock::offset_ns(init, clock) - crate::clock::offset_ns(own, clock);
        Self { monotonic: ahead(libc::CLOCK_MONOTONIC), boottime: ahead(libc::CLOCK_BOOTTIME) }
    }
}

/// Makes what `description` says.
pub(super) fn create(description: &Description, ahead: Ahead) -> Result<OwnedFd, Error> {
    match &description.kind {
        Kind::Event { count, semaphore } => eventfd(*count, *semaphore),
        Kind::Timer(timer) => timerfd(timer, ahead),
        Kind::Signal { mask } => {
            ferry_sys::signalfd::signalfd(*mask).map_err(Error::kernel("make a signalfd"))
        }
        Kind::Epoll { .. } => {
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::kernel("make an epoll set"))
        }
        Kind::Inotify { watches } => inotify_with(watches),
        _ => Err(Error::broken("This is no event descriptor")),
    }
}

fn eventfd(count: u64, semaphore: bool) -> Result<OwnedFd, Error> {
    let mut flags = EventfdFlags::CLOEXEC;
    flags.set(EventfdFlags::SEMAPHORE, semaphore);
    let fd = rustix::event::eventfd(0, flags).map_err(Error::kernel("make an eventfd"))?;
    // The counter at creation has 32 bits; a write has 64, and would wait only at its very end.
    if count > 0 {
        let count = count.min(u64::MAX - 1);
        rustix::io::write(&fd, &count.to_ne_bytes()).map_err(Error::kernel("set an eventfd's counter"))?;
    }
    Ok(fd)
}

fn timerfd(timer: &Timer, ahead: Ahead) -> Result<OwnedFd, Error> {
    let what = "make a timerfd";
    let clock = match timer.clock {
        libc::CLOCK_REALTIME => TimerfdClockId::Realtime,
        libc::CLOCK_MONOTONIC => TimerfdClockId::Monotonic,
        libc::CLOCK_BOOTTIME => TimerfdClockId::Boottime,
        libc::CLOCK_REALTIME_ALARM => TimerfdClockId::RealtimeAlarm,
        libc::CLOCK_BOOTTIME_ALARM => TimerfdClockId::BoottimeAlarm,
        other => return Err(Error::broken(format!("A timerfd on clock {other} is not known here"))),
    };
    let fd = timerfd_create(clock, TimerfdFlags::CLOEXEC).map_err(Error::kernel(what))?;
    if timer.left_ns != 0 {
        let spec =
            |ns: u64| Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 };
        let interval = spec(timer.interval_ns);
        let absolute = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        let realtime = matches!(timer.clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM);
        let flags = TimerfdTimerFlags::from_bits_truncate(timer.settime_flags & absolute.bits());
        let (flags, value) = if realtime && flags.contains(TimerfdTimerFlags::ABSTIME) {
            (flags, spec(timer.expires_ns))
        } else {
            (TimerfdTimerFlags::empty(), spec(left_ns(timer, ahead)))
        };
        let setting = Itimerspec { it_interval: interval, it_value: value };
        timerfd_settime(&fd, flags, &setting).map_err(Error::kernel("set a timerfd"))?;
    }
    if timer.ticks > 0 {
        ioctl::set_timer_ticks(&fd, timer.ticks).map_err(Error::kernel("set a timerfd's ticks"))?;
    }
    Ok(fd)
}

/// Time left until it expires, by the workload's clock here; at least one nanosecond. Where that clock is behind what it was at
/// the capture (no time namespace), the time that was left then.
fn left_ns(timer: &Timer, ahead: Ahead) -> u64 {
    let offset = match timer.clock {
        libc::CLOCK_MONOTONIC => ahead.monotonic,
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => ahead.boottime,
        _ => 0,
    };
    let left = i128::from(timer.expires_ns) - (crate::clock::now_ns(timer.clock) + offset);
    let realtime = matches!(timer.clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM);
    let strange = left > i128::from(timer.left_ns) + 1_000_000_000;
    if realtime || strange { timer.left_ns.max(1) } else { u64::try_from(left.max(1)).unwrap_or(1) }
}

fn inotify_with(watches: &[Watch]) -> Result<OwnedFd, Error> {
    let fd =
        inotify::init(inotify::CreateFlags::CLOEXEC).map_err(Error::kernel("make an inotify instance"))?;
    for watch in watches {
        let shown = String::from_utf8_lossy(&watch.path).into_owned();
        let what = || format!("watch {shown}");
        ioctl::set_next_watch(&fd, watch.wd).map_err(Error::kernel(what()))?;
        let flags = inotify::WatchFlags::from_bits_retain(watch.mask);
        let wd =
            inotify::add_watch(&fd, OsStr::from_bytes(&watch.path), flags).map_err(Error::kernel(what()))?;
        if wd != watch.wd {
            return Err(Error::broken(format!(
                "The watch on {shown} got number {wd} instead of {}",
                watch.wd
            )));
        }
    }
    Ok(fd)
}
