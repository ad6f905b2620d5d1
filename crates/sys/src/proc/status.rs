//! `/proc/PID/status` and `/proc/PID/limits`: credentials, ids in each namespace, limits.

use super::Malformed;
use super::text::decimal;

/// What is used of `/proc/PID/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Process id (thread group), as the reader sees it.
    pub tgid: i32,
    /// Tracer, as the reader sees it; 0: none.
    pub tracer: i32,
    /// Parent, as the reader sees it.
    pub parent: i32,
    /// Ids in each pid namespace from the reader's to the innermost: thread group.
    pub ns_tgid: Vec<i32>,
    /// Thread.
    pub ns_pid: Vec<i32>,
    /// Process group.
    pub ns_group: Vec<i32>,
    /// Session.
    pub ns_session: Vec<i32>,
    /// Users: real, effective, saved, file system.
    pub uid: [u32; 4],
    /// Groups: real, effective, saved, file system.
    pub gid: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities: inheritable, permitted, effective, bounding, ambient.
    pub capabilities: [u64; 5],
    /// No new privileges.
    pub no_new_privileges: bool,
    /// 0, 1 strict, 2 filter.
    pub seccomp: u32,
    /// Number of filters.
    pub seccomp_filters: u32,
    /// File mode creation mask.
    pub umask: u32,
    /// Number of threads.
    pub threads: u32,
    /// Signals: pending for the thread, for the process, blocked, ignored, caught.
    pub signals: [u64; 5],
    /// Processors allowed, as a mask of bytes, lowest first.
    pub processors: Vec<u8>,
    /// Bytes locked in memory.
    pub locked: u64,
    /// Resident bytes.
    pub resident: u64,
    /// How often the thread gave its processor away because it had to wait.
    pub voluntary_switches: u64,
    /// Features of user space that a restore would have to set (`x86_Thread_features`).
    pub thread_features: Vec<u8>,
}

/// Parses the text. Lines that this version does not know are skipped.
pub fn parse(text: &[u8]) -> Result<Status, Malformed> {
    let mut status = Status::default();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        field(&mut status, name, value)
            .ok_or_else(|| Malformed::new("status", format!("field {}", String::from_utf8_lossy(name))))?;
    }
    Ok(status)
}

fn field(status: &mut Status, name: &[u8], value: &[u8]) -> Option<()> {
    match name {
        b"Tgid" => status.tgid = number(value)? as i32,
        b"TracerPid" => status.tracer = number(value)? as i32,
        b"PPid" => status.parent = number(value)? as i32,
        b"NStgid" => status.ns_tgid = list(value)?,
        b"NSpid" => status.ns_pid = list(value)?,
        b"NSpgid" => status.ns_group = list(value)?,
        b"NSsid" => status.ns_session = list(value)?,
        b"Uid" => status.uid = list(value)?.try_into().ok()?,
        b"Gid" => status.gid = list(value)?.try_into().ok()?,
        b"Groups" => status.groups = list(value)?,
        b"CapInh" => status.capabilities[0] = hexadecimal(value)?,
        b"CapPrm" => status.capabilities[1] = hexadecimal(value)?,
        b"CapEff" => status.capabilities[2] = hexadecimal(value)?,
        b"CapBnd" => status.capabilities[3] = hexadecimal(value)?,
        b"CapAmb" => status.capabilities[4] = hexadecimal(value)?,
        b"NoNewPrivs" => status.no_new_privileges = number(value)? != 0,
        b"Seccomp" => status.seccomp = number(value)? as u32,
        b"Seccomp_filters" => status.seccomp_filters = number(value)? as u32,
        b"Umask" => status.umask = u32::from_str_radix(std::str::from_utf8(value).ok()?, 8).ok()?,
        b"Threads" => status.threads = number(value)? as u32,
        b"SigPnd" => status.signals[0] = hexadecimal(value)?,
        b"ShdPnd" => status.signals[1] = hexadecimal(value)?,
        b"SigBlk" => status.signals[2] = hexadecimal(value)?,
        b"SigIgn" => status.signals[3] = hexadecimal(value)?,
        b"SigCgt" => status.signals[4] = hexadecimal(value)?,
        b"Cpus_allowed" => status.processors = mask(value)?,
        b"VmLck" => status.locked = decimal(value)?.0.saturating_mul(1024),
        b"VmRSS" => status.resident = decimal(value)?.0.saturating_mul(1024),
        b"voluntary_ctxt_switches" => status.voluntary_switches = number(value)?,
        b"x86_Thread_features" => status.thread_features = value.to_vec(),
        _ => {}
    }
    Some(())
}

fn number(value: &[u8]) -> Option<u64> {
    decimal(value).map(|(number, _)| number)
}

fn hexadecimal(value: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok()
}

fn list<T: std::str::FromStr>(value: &[u8]) -> Option<Vec<T>> {
    std::str::from_utf8(value).ok()?.split_ascii_whitespace().map(|word| word.parse().ok()).collect()
}

/// `00000000,00000003`: groups of 32 bits, highest first.
fn mask(value: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut bytes = Vec::new();
    for group in text.split(',').rev() {
        bytes.extend_from_slice(&u32::from_str_radix(group, 16).ok()?.to_le_bytes());
    }
    while bytes.len() % 8 != 0 {
        bytes.push(0);
    }
    Some(bytes)
}

/// Reads and parses `/proc/PID/status`, or `/proc/PID/task/TID/status` by its path beneath `/proc`.
///
/// # Errors
/// ENOENT or ESRCH when it is gone.
pub fn read(what: &str) -> std::io::Result<Status> {
    Ok(parse(&super::read_path(&format!("/proc/{what}/status"))?)?)
}

/// Order of the lines of `/proc/PID/limits` as resource numbers.
const LIMITS: [(&[u8], usize); 16] = [
    (b"Max cpu time", 0),
    (b"Max file size", 1),
    (b"Max data size", 2),
    (b"Max stack size", 3),
    (b"Max core file size", 4),
    (b"Max resident set", 5),
    (b"Max processes", 6),
    (b"Max open files", 7),
    (b"Max locked memory", 8),
    (b"Max address space", 9),
    (b"Max file locks", 10),
    (b"Max pending signals", 11),
    (b"Max msgqueue size", 12),
    (b"Max nice priority", 13),
    (b"Max realtime priority", 14),
    (b"Max realtime timeout", 15),
];

/// Parses `/proc/PID/limits`: soft and hard, by resource number; `u64::MAX` is unlimited.
pub fn parse_limits(text: &[u8]) -> Result<Vec<(u64, u64)>, Malformed> {
    let mut limits = vec![(u64::MAX, u64::MAX); LIMITS.len()];
    let mut found = 0;
    for line in text.split(|byte| *byte == b'\n') {
        let Some((name, at)) = LIMITS.iter().find(|(name, _)| line.starts_with(name)) else { continue };
        let values = std::str::from_utf8(&line[name.len()..]).unwrap_or_default();
        let mut words = values.split_ascii_whitespace().map(|word| match word {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        });
        let (Some(Some(soft)), Some(Some(hard))) = (words.next(), words.next()) else {
            return Err(Malformed::new("limits", String::from_utf8_lossy(name)));
        };
        limits[*at] = (soft, hard);
        found += 1;
    }
    if found < LIMITS.len() {
        return Err(Malformed::new("limits", "a limit is missing"));
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn own_status_is_understood() {
        let status = read("self").unwrap();
        assert_eq!(status.tgid, std::process::id() as i32);
        assert!(*status.ns_pid.last().unwrap() > 0);
        assert!(status.capabilities[3] != 0 && status.threads >= 1 && !status.processors.is_empty());
    }

    #[test]
    fn own_limits_are_understood() {
        let limits = parse_limits(&crate::proc::read(std::process::id() as i32, "limits").unwrap()).unwrap();
        assert!(limits[7].0 > 0 && limits[7].0 <= limits[7].1);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = parse_limits(&bytes);
        }

        #[test]
        fn fields_are_parsed_or_refused(name in "Uid|Groups|CapInh|Cpus_allowed|NSpid|Umask", value in "[ -~]{0,40}") {
            let _ = parse(format!("{name}:\t{value}\n").as_bytes());
        }
    }
}
