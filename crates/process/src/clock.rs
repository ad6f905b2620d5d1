//! Clocks across time namespaces: what a clock says inside of a workload, read from outside.

use rustix::time::{ClockId, clock_gettime};

/// What `clock` (`CLOCK_*`, the alarm clocks too) says to the caller, nanoseconds.
#[must_use]
pub fn now_ns(clock: i32) -> i128 {
    let id = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => ClockId::Realtime,
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => ClockId::Boottime,
        _ => ClockId::Monotonic,
    };
    let now = clock_gettime(id);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// The offset of `clock` in the time namespace of the children of `pid` (as `/proc` shows it), nanoseconds; 0 where there is none.
#[must_use]
pub fn offset_ns(pid: i32, clock: i32) -> i128 {
    let name = match clock {
        libc::CLOCK_MONOTONIC => "monotonic",
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => "boottime",
        _ => return 0,
    };
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/timens_offsets")) else { return 0 };
    parse_offset(&text, name)
}

fn parse_offset(text: &str, name: &str) -> i128 {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some(name) {
            let seconds: i128 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            let nanos: i128 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            return seconds * 1_000_000_000 + nanos;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_offsets() {
        let text = "monotonic           1         5\nboottime          -2         0\n";
        assert_eq!(super::parse_offset(text, "monotonic"), 1_000_000_005);
        assert_eq!(super::parse_offset(text, "boottime"), -2_000_000_000);
        assert_eq!(super::parse_offset("", "boottime"), 0);
    }
}
