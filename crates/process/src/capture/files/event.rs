//! eventfd, timerfd and signalfd: all of their state is in `fdinfo`.

use super::class::Class;
use super::survey::Look;
use super::{Capture, Error};
use crate::records::file::{Kind, Timer};
use ferry_sys::fdinfo::{self, TimerLines};
use rustix::fd::AsRawFd as _;

/// What the description is.
pub(super) fn capture(capture: &Capture<'_>, look: &Look) -> Result<Kind, Error> {
    let missing = || Error::busy(format!("{}: the kernel does not tell its state", look.place()));
    Ok(match look.class {
        Class::Event => Kind::Event {
            count: look.info.event_count.ok_or_else(missing)?,
            semaphore: look.info.event_semaphore,
        },
        Class::Signal => Kind::Signal { mask: look.info.signal_mask.ok_or_else(missing)? },
        _ => {
            let mut timer = look.info.timer.ok_or_else(missing)?;
            if timer.interval_ns != 0 && timer.ticks != 0 {
                timer = counted(capture, look)?.ok_or_else(missing)?;
            }
            let offset = time_offset(capture.survey.anyone()?.host_pid, timer.clock);
            let now = crate::clock::now_ns(timer.clock) + offset;
            let expires = if timer.value_ns == 0 { 0 } else { now + i128::from(timer.value_ns) };
            Kind::Timer(Timer {
                clock: timer.clock,
                settime_flags: timer.settime_flags,
                ticks: timer.ticks,
                left_ns: timer.value_ns,
                interval_ns: timer.interval_ns,
                expires_ns: u64::try_from(expires.max(0)).unwrap_or(u64::MAX),
            })
        }
    })
}

/// A periodic timer that fired is not counted on before somebody reads it or asks for the time left; until then it shows
/// none. Asking changes nothing that a reader could see.
fn counted(capture: &Capture<'_>, look: &Look) -> Result<Option<TimerLines>, Error> {
    let what = || format!("read the timer of {}", look.place());
    let fd = capture.take(look)?;
    let left = rustix::time::timerfd_gettime(&fd).map_err(Error::kernel(what()))?.it_value;
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = std::fs::read_to_string(path).map_err(Error::kernel(what()))?;
    let mut timer = fdinfo::parse(&text).timer;
    if let Some(timer) = &mut timer {
        let left = left.tv_sec.unsigned_abs() * 1_000_000_000 + left.tv_nsec.unsigned_abs();
        timer.value_ns = timer.value_ns.max(left);
    }
    Ok(timer)
}

/// How far the clock in the workload's time namespace is ahead of this process's own.
fn time_offset(host_pid: i32, clock: i32) -> i128 {
    crate::clock::offset_ns(host_pid, clock) - crate::clock::offset_ns(std::process::id() as i32, clock)
}
