//! Direct I/O: a device writes to the memory of a process by itself, and nothing notes it.
//!
//! Memory into which a read by `O_DIRECT` is under way is noted as written when the read begins. A scan in the middle of it protects the
//! page again, and what the device writes after that is found by no later scan. When the tree stands still no such read is under way any
//! more: a task is only frozen when its system call is over. So the memory of a process that has such a file open travels once more then.

use crate::records::Files;
use crate::records::file::Kind;
use ferry_sys::{fdinfo, proc};
use std::collections::BTreeSet;

/// `O_DIRECT`. Of a pipe it means something else.
const O_DIRECT: u32 = libc::O_DIRECT as u32;

/// Whether a process, as this host sees it, has a file open for direct I/O. What cannot be read is as if it had: it costs a longer pause.
pub(crate) fn is_open_in(pid: i32) -> bool {
    let Ok(descriptors) = proc::numbers(&format!("/proc/{pid}/fd")) else { return true };
    descriptors.into_iter().any(|fd| {
        let is_file = proc::link(pid, &format!("fd/{fd}")).is_ok_and(|link| link.starts_with(b"/"));
        let text = || proc::read(pid, &format!("fdinfo/{fd}")).unwrap_or_default();
        is_file && fdinfo::parse(&String::from_utf8_lossy(&text())).flags & O_DIRECT != 0
    })
}

/// Processes, as they see themselves, that have a file open for direct I/O.
#[must_use]
pub fn users(files: &Files) -> BTreeSet<i32> {
    let direct = |number: u32| {
        let description = files.descriptions.get(number as usize);
        description.is_some_and(|one| one.flags & O_DIRECT != 0 && !matches!(one.kind, Kind::Pipe { .. }))
    };
    let with =
        files.tables.iter().filter(|table| table.descriptors.iter().any(|each| direct(each.description)));
    with.flat_map(|table| table.tasks.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn a_file_that_is_open_for_direct_io_is_found_among_others() {
        // This test's process has one thread for each test, and other tests may open what they like: what counts is a child's table.
        let place = std::env::current_exe().unwrap();
        let open = |flags| std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&place).unwrap();
        let mut command = std::process::Command::new("/bin/sleep");
        let mut plain = command.arg("60").stdin(open(0)).spawn().unwrap();
        let mut direct =
            std::process::Command::new("/bin/sleep").arg("60").stdin(open(libc::O_DIRECT)).spawn().unwrap();
        let found = (is_open_in(plain.id() as i32), is_open_in(direct.id() as i32));
        for child in [&mut plain, &mut direct] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, (false, true));
    }
}
