//! The vDSO: code that the kernel maps into every task. A task can only go on where it is the same, in the same place.

use ferry_sys::proc::{self, maps};

/// Hash of this kernel's vDSO, as it is mapped into this process.
///
/// # Errors
/// When `/proc/self` cannot be read.
pub fn own_hash() -> std::io::Result<[u8; 32]> {
    let pid = std::process::id() as i32;
    let maps = maps::parse(&proc::read(pid, "maps")?)?;
    hash(pid, &maps)
}

/// Hash of the vDSO of a process; zeros where it has none.
///
/// # Errors
/// When its memory cannot be read.
pub fn hash(pid: i32, maps: &[maps::Mapping]) -> std::io::Result<[u8; 32]> {
    crate::capture::vdso_hash(pid, maps)
}
