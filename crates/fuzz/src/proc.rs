//! The parsers of `/proc`: its text is the kernel's, but names and paths in it are chosen by programs.

use ferry_sys::mountinfo as mounts;
use ferry_sys::proc::{maps as mappings, smaps as advice, stat as task, status as state, timers as clocks};

/// This process's own file of that name, and one that a program has made difficult.
fn seeds(name: &str, difficult: &str) -> Vec<Vec<u8>> {
    let mut all = vec![difficult.as_bytes().to_vec()];
    if let Ok(own) = std::fs::read(format!("/proc/self/{name}")) {
        all.push(own);
    }
    all
}

/// Mappings that are accepted do not end before they begin.
pub fn maps(bytes: &[u8]) {
    if let Ok(all) = mappings::parse(bytes) {
        assert!(all.iter().all(|mapping| mapping.start <= mapping.end));
    }
}

/// Mappings with names that look like fields.
#[must_use]
pub fn maps_seeds() -> Vec<Vec<u8>> {
    let text = "7f00-8000 rw-p 00000000 00:00 0 \n\
        55d0c0000000-55d0c0001000 r-xp 00001000 fe:01 123456 /tmp/a\\012b (deleted) (deleted)\n\
        7fff0000-7fff1000 ---s ffffffffffffffff ff:ff 18446744073709551615                 [stack]\n";
    seeds("maps", text)
}

/// Flags of mappings.
pub fn smaps(bytes: &[u8]) {
    let _ = advice::parse(bytes);
}

/// One mapping with all its lines.
#[must_use]
pub fn smaps_seeds() -> Vec<Vec<u8>> {
    let text = "7f0000000000-7f0000001000 rw-p 00000000 00:00 0 [anon:VmFlags: xx]\n\
        Size:                  4 kB\nProtectionKey:         3\nVmFlags: rd wr mr mw me ac sd hg \n";
    seeds("smaps", text)
}

/// One line about a task.
pub fn stat(bytes: &[u8]) {
    let _ = task::parse(bytes);
}

/// A task with a name that closes its own bracket.
#[must_use]
pub fn stat_seeds() -> Vec<Vec<u8>> {
    let numbers = " 0".repeat(48);
    seeds("stat", &format!("12 (a) R 1 (\u{1}) S 1 12 12 34816 -1 4194304{numbers}\n"))
}

/// Lines about a task.
pub fn status(bytes: &[u8]) {
    let _ = state::parse(bytes);
}

/// A task in two pid namespaces.
#[must_use]
pub fn status_seeds() -> Vec<Vec<u8>> {
    let text = "Name:\ta\\nUid:\t0\nUmask:\t0022\nTgid:\t5\nNStgid:\t5\t1\nNSpid:\t6\t2\nUid:\t0\t1\t2\t3\nGid:\t4\t5\t6\t7\n\
        Groups:\t1 2 3 \nSigPnd:\t0000000000000000\nShdPnd:\tffffffffffffffff\nCapInh:\t000001ffffffffff\n";
    seeds("status", text)
}

/// Resource limits.
pub fn limits(bytes: &[u8]) {
    let _ = state::parse_limits(bytes);
}

/// The kernel's own table.
#[must_use]
pub fn limits_seeds() -> Vec<Vec<u8>> {
    let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
        Max cpu time              unlimited            18446744073709551615 seconds   \n";
    seeds("limits", text)
}

/// POSIX timers.
pub fn timers(bytes: &[u8]) {
    let _ = clocks::parse(bytes);
}

/// Two timers.
#[must_use]
pub fn timers_seeds() -> Vec<Vec<u8>> {
    let text = "ID: 0\nsignal: 34/00007ffe00000000\nnotify: signal/tid.5\nClockID: 1\n\
        ID: 2147483647\nsignal: 10/0\nnotify: none/pid.5\nClockID: -6\n";
    seeds("timers", text)
}

/// The mount table.
pub fn mountinfo(bytes: &[u8]) {
    let _ = mounts::parse(bytes);
}

/// Mounts with escaped names and optional fields.
#[must_use]
pub fn mountinfo_seeds() -> Vec<Vec<u8>> {
    let text = "36 35 98:0 /a\\040b /mnt\\012 rw,noatime master:1 shared:2 - ext3 /dev/root\\134 rw,errors=continue\n\
        37 36 0:5 / / ro - tmpfs none rw\n";
    seeds("mountinfo", text)
}
