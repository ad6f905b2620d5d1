//! The vDSO: code that the kernel maps into every task. A task can only go on where it is the same, in the same place.

use ferry_sys::proc::{
    self,
    maps::{self, Mapping},
};
use ferry_sys::process_vm;
use ferry_sys::remote::tail::Tail;
use std::io;

/// Largest vDSO that is hashed, bytes. Kernels have 8 KiB.
const BYTES_MAX: u64 = 1 << 20;

/// Hash of this kernel's vDSO, as it is mapped into this process.
///
/// # Errors
/// When `/proc/self` cannot be read.
pub fn own_hash() -> io::Result<[u8; 32]> {
    let pid = std::process::id() as i32;
    let maps = maps::parse(&proc::read(pid, "maps")?)?;
    hash(pid, &maps)
}

/// Hash of the vDSO of a process; zeros where it has none.
///
/// # Errors
/// When its memory cannot be read, or is larger than any kernel's.
pub fn hash(pid: i32, maps: &[Mapping]) -> io::Result<[u8; 32]> {
    let Some(vdso) = maps.iter().find(|mapping| mapping.name == b"[vdso]") else { return Ok([0; 32]) };
    let len = vdso.end - vdso.start;
    if len > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("A vDSO of {len} bytes")));
    }
    let mut bytes = vec![0u8; len as usize];
    process_vm::read(pid, vdso.start, &mut bytes)?;
    // What is in its tail for the time of a capture does not belong to it.
    if let Ok(tail) = Tail::find(&bytes, vdso.start) {
        bytes[(tail.base - vdso.start) as usize..].fill(0);
    }
    Ok(*blake3::hash(&bytes).as_bytes())
}
