//! `/proc/PID/fdinfo/FD`: what the kernel writes out about one descriptor.
//!
//! A pure parser: it takes text and gives numbers. Unknown lines are skipped, malformed ones too, so that a newer kernel
//! or a hostile file can at worst hide something, never crash. Lists are bounded.

/// Entries of one list (epoll targets, watches, locks) that are read at most.
pub const ENTRIES_MAX: usize = 1 << 20;

/// What is known about a descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// Position, bytes.
    pub position: u64,
    /// `O_*`, with `O_CLOEXEC` for the descriptor's own flag.
    pub flags: u32,
    /// Mount id.
    pub mount: u64,
    /// Inode number.
    pub inode: u64,
    /// Locks held through it.
    pub locks: Vec<LockLine>,
    /// eventfd: the counter.
    pub event_count: Option<u64>,
    /// eventfd: `EFD_SEMAPHORE` (kernel 6.5 and newer say so).
    pub event_semaphore: bool,
    /// signalfd: the mask.
    pub signal_mask: Option<u64>,
    /// timerfd.
    pub timer: Option<TimerLines>,
    /// epoll: what it watches.
    pub targets: Vec<TargetLine>,
    /// inotify: what it watches.
    pub watches: Vec<WatchLine>,
    /// Number of a pseudo-terminal, on the master.
    pub terminal: Option<u32>,
    /// Unix socket: descriptors that travel in its receive queue.
    pub travelling: u32,
    /// pidfd: the process, as the reader sees it; -1: gone.
    pub pid: Option<i32>,
}

/// A line `lock:`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockLine {
    /// `FLOCK`, `POSIX`, `OFDLCK`, `LEASE`, `DELEG`, `ACCESS`.
    pub sort: String,
    /// Exclusive.
    pub exclusive: bool,
    /// First byte.
    pub start: u64,
    /// Last byte; `None`: to the end.
    pub end: Option<u64>,
}

/// The lines of a timerfd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerLines {
    /// `CLOCK_*`.
    pub clock: i32,
    /// Expirations that were not read.
    pub ticks: u64,
    /// Flags of `timerfd_settime`.
    pub settime_flags: u32,
    /// Nanoseconds to the next expiration, 0: disarmed.
    pub value_ns: u64,
    /// Period in nanoseconds.
    pub interval_ns: u64,
}

/// A line `tfd:` of an epoll descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetLine {
    /// Number under which it was added.
    pub fd: i32,
    /// `EPOLL*`.
    pub events: u32,
    /// The user's datum.
    pub data: u64,
    /// Inode of the target.
    pub inode: u64,
}

/// A line `inotify`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchLine {
    /// Watch descriptor.
    pub wd: i32,
    /// Inode.
    pub inode: u64,
    /// Device, in the kernel's own encoding (major << 20 | minor).
    pub device: u32,
    /// `IN_*`.
    pub mask: u32,
    /// Type of the file handle.
    pub handle_type: i32,
    /// The file handle.
    pub handle: Vec<u8>,
}

/// Reads the text of a `fdinfo` file.
#[must_use]
pub fn parse(text: &str) -> FdInfo {
    let mut info = FdInfo::default();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("inotify ") {
            if info.watches.len() < ENTRIES_MAX {
                info.watches.extend(watch(rest));
            }
            continue;
        }
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key.trim() {
            "pos" => info.position = value.parse().unwrap_or(0),
            "flags" => info.flags = u32::from_str_radix(value, 8).unwrap_or(0),
            "mnt_id" => info.mount = value.parse().unwrap_or(0),
            "ino" => info.inode = value.parse().unwrap_or(0),
            "lock" if info.locks.len() < ENTRIES_MAX => info.locks.extend(lock(value)),
            "eventfd-count" => info.event_count = u64::from_str_radix(value, 16).ok(),
            "eventfd-semaphore" => info.event_semaphore = value == "1",
            "sigmask" => info.signal_mask = u64::from_str_radix(value, 16).ok(),
            "tfd" if info.targets.len() < ENTRIES_MAX => info.targets.extend(target(value)),
            "tty-index" => info.terminal = value.parse().ok(),
            "scm_fds" => info.travelling = value.parse().unwrap_or(0),
            "Pid" => info.pid = value.parse().ok(),
            "clockid" => info.timer.get_or_insert_default().clock = value.parse().unwrap_or(0),
            "ticks" => info.timer.get_or_insert_default().ticks = value.parse().unwrap_or(0),
            "settime flags" => {
                info.timer.get_or_insert_default().settime_flags = u32::from_str_radix(value, 8).unwrap_or(0);
            }
            "it_value" => info.timer.get_or_insert_default().value_ns = pair_ns(value),
            "it_interval" => info.timer.get_or_insert_default().interval_ns = pair_ns(value),
            _ => {}
        }
    }
    info
}

/// `(seconds, nanoseconds)`.
fn pair_ns(value: &str) -> u64 {
    let inner = value.trim_start_matches('(').trim_end_matches(')');
    let Some((seconds, nanos)) = inner.split_once(',') else { return 0 };
    let seconds: u64 = seconds.trim().parse().unwrap_or(0);
    let nanos: u64 = nanos.trim().parse().unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// `1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF`.
fn lock(value: &str) -> Option<LockLine> {
    let mut words = value.split_whitespace().skip(1);
    let sort = words.next()?.to_owned();
    let _advisory = words.next()?;
    let exclusive = words.next()? == "WRITE";
    let _pid = words.next()?;
    let _inode = words.next()?;
    let start = words.next()?.parse().ok()?;
    let end = match words.next()? {
        "EOF" => None,
        last => Some(last.parse().ok()?),
    };
    Some(LockLine { sort, exclusive, start, end })
}

/// `       5 events:       1d data: ffffffffffffffff  pos:0 ino:61af sdev:7`.
fn target(value: &str) -> Option<TargetLine> {
    let mut found = TargetLine::default();
    let (fd, rest) = value.split_once(char::is_whitespace)?;
    found.fd = fd.parse().ok()?;
    let mut words = rest.split([' ', ':', '\t']).filter(|word| !word.is_empty());
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        match key {
            "events" => found.events = u32::from_str_radix(value, 16).ok()?,
            "data" => found.data = u64::from_str_radix(value, 16).ok()?,
            "ino" => found.inode = u64::from_str_radix(value, 16).ok()?,
            _ => {}
        }
    }
    Some(found)
}

/// `wd:3 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d`.
fn watch(rest: &str) -> Option<WatchLine> {
    let mut found = WatchLine::default();
    for word in rest.split_whitespace() {
        let (key, value) = word.split_once(':')?;
        match key {
            "wd" => found.wd = value.parse().ok()?,
            "ino" => found.inode = u64::from_str_radix(value, 16).ok()?,
            "sdev" => found.device = u32::from_str_radix(value, 16).ok()?,
            "mask" => found.mask = u32::from_str_radix(value, 16).ok()?,
            "fhandle-type" => found.handle_type = i32::from_str_radix(value, 16).ok()?,
            "f_handle" if value.len() <= 256 && value.is_ascii() => {
                found.handle = (0..value.len() / 2)
                    .map_while(|at| u8::from_str_radix(&value[2 * at..2 * at + 2], 16).ok())
                    .collect();
            }
            _ => {}
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kernels_write() {
        let info = parse(
            "pos:\t7\nflags:\t0102002\nmnt_id:\t15\nino:\t1057\nlock:\t1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF\nlock:\t2: OFDLCK ADVISORY  READ -1 00:13:11691 10 19\n",
        );
        assert_eq!((info.position, info.flags, info.mount, info.inode), (7, 0o102_002, 15, 1057));
        assert_eq!(info.locks.len(), 2);
        assert!(info.locks[0].exclusive && info.locks[0].end.is_none());
        assert_eq!(
            info.locks[1],
            LockLine { sort: "OFDLCK".into(), exclusive: false, start: 10, end: Some(19) }
        );
        let info = parse("tfd:        5 events:       1d data: ffffffffffffffff  pos:0 ino:61af sdev:7\n");
        assert_eq!(info.targets, [TargetLine { fd: 5, events: 0x1d, data: u64::MAX, inode: 0x61af }]);
        let info =
            parse("clockid: 1\nticks: 3\nsettime flags: 01\nit_value: (0, 49406829)\nit_interval: (1, 5)\n");
        let timer = info.timer.unwrap();
        assert_eq!((timer.clock, timer.ticks, timer.settime_flags), (1, 3, 1));
        assert_eq!((timer.value_ns, timer.interval_ns), (49_406_829, 1_000_000_005));
        let info = parse(
            "inotify wd:3 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d\n",
        );
        assert_eq!(info.watches[0].handle, [0x7e, 0x9e, 0, 0, 0x64, 0x0d, 0x1b, 0x6d]);
        assert_eq!(
            (info.watches[0].wd, info.watches[0].inode, info.watches[0].mask),
            (3, 0x9e7e, 0x0800_afce)
        );
    }

    #[test]
    fn survives_nonsense() {
        for text in
            ["", ":", "tfd:", "tfd: x", "lock: ", "inotify ", "inotify wd", "it_value: (", "pos:\t-1\n\n::::"]
        {
            let _ = parse(text);
        }
    }
}
