//! `/proc/PID/timers`: POSIX timers with their ids, clocks and notifications.

use super::Malformed;

/// One POSIX timer. Its settings are asked from the task itself (`timer_gettime`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timer {
    /// Id.
    pub id: i32,
    /// `sigev_signo`.
    pub signal: i32,
    /// `sigev_value`.
    pub value: u64,
    /// `sigev_notify` (SIGEV_SIGNAL 0, NONE 1, THREAD 2, with THREAD_ID 4).
    pub notify: i32,
    /// Thread or process that it notifies, as the mount of `/proc` sees it.
    pub task: i32,
    /// Clock.
    pub clock: i32,
}

/// Most timers accepted from one process.
const TIMERS_MAX: usize = 1 << 20;

/// Parses the text.
pub fn parse(text: &[u8]) -> Result<Vec<Timer>, Malformed> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed::new("timers", "not text"))?;
    let mut all: Vec<Timer> = Vec::new();
    for line in text.lines() {
        if let Some(id) = line.strip_prefix("ID: ") {
            if all.len() >= TIMERS_MAX {
                return Err(Malformed::new("timers", "too many"));
            }
            let id = id.trim().parse().map_err(|_| Malformed::new("timers", "an id"))?;
            all.push(Timer { id, ..Timer::default() });
            continue;
        }
        let timer = all.last_mut().ok_or_else(|| Malformed::new("timers", "no id"))?;
        field(timer, line)
            .ok_or_else(|| Malformed::new("timers", line.chars().take(80).collect::<String>()))?;
    }
    Ok(all)
}

fn field(timer: &mut Timer, line: &str) -> Option<()> {
    if let Some(rest) = line.strip_prefix("signal: ") {
        let (signal, value) = rest.split_once('/')?;
        timer.signal = signal.parse().ok()?;
        timer.value = u64::from_str_radix(value.trim().trim_start_matches("0x"), 16).ok().or_else(|| {
            // A null pointer is printed in words on some kernels.
            value.contains("null").then_some(0)
        })?;
    } else if let Some(rest) = line.strip_prefix("notify: ") {
        let (how, whom) = rest.split_once('/')?;
        timer.notify = match how {
            "signal" => 0,
            "none" => 1,
            "thread" => 2,
            _ => return None,
        };
        if let Some(tid) = whom.strip_prefix("tid.") {
            timer.notify |= 4;
            timer.task = tid.trim().parse().ok()?;
        } else {
            timer.task = whom.strip_prefix("pid.")?.trim().parse().ok()?;
        }
    } else if let Some(rest) = line.strip_prefix("ClockID: ") {
        timer.clock = rest.trim().parse().ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_text_is_understood() {
        let text = b"ID: 0\nsignal: 14/00007ffd00000001\nnotify: signal/pid.77\nClockID: 1\nID: 3\nsignal: 34/0000000000000000\nnotify: signal/tid.78\nClockID: 0\n";
        assert_eq!(
            parse(text).unwrap(),
            [
                Timer { id: 0, signal: 14, value: 0x7ffd_0000_0001, notify: 0, task: 77, clock: 1 },
                Timer { id: 3, signal: 34, value: 0, notify: 4, task: 78, clock: 0 },
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(ID: |signal: |notify: |ClockID: |[0-9/.]|\n|[ -~]){0,60}") {
            let _ = parse(text.as_bytes());
        }
    }
}
