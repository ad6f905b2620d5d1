//! Reading and writing another process's memory: process_vm_readv(2) and process_vm_writev(2).
//!
//! Measured here: 5.7 GiB/s by 1 MiB, against 1.5-4.3 for `/proc/PID/mem`. Both calls obey the mapping's protection, so
//! callers fall back to `/proc/PID/mem` on EFAULT (a read-only private page, a PROT_NONE guard).
#![allow(unsafe_code)]

use std::io;

/// Reads up to `buffer.len()` bytes at `address` of process `pid`; returns how many. Stops at the first page that cannot be
/// read; `EFAULT` if that is the very first.
pub fn read(pid: i32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: `local` describes `buffer`, which is exclusively borrowed and alive for the whole call; `remote` is an address of
    // the other process and is only interpreted by the kernel.
    let count = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Writes up to `bytes.len()` bytes at `address` of process `pid`; returns how many.
pub fn write(pid: i32, address: u64, bytes: &[u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: the kernel only reads from `local`, which describes `bytes`, alive for the whole call; `remote` is an address of
    // the other process and is only interpreted by the kernel.
    let count = unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_and_written() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut there = vec![7u8; 10_000];
        let mut here = vec![0u8; 10_000];
        assert_eq!(read(pid, there.as_ptr() as u64, &mut here).unwrap(), 10_000);
        assert_eq!(here, there);
        here.fill(9);
        assert_eq!(write(pid, there.as_mut_ptr() as u64, &here).unwrap(), 10_000);
        assert_eq!(std::hint::black_box(&there)[9_999], 9);
        assert_eq!(read(pid, 0, &mut here).unwrap_err().raw_os_error(), Some(libc::EFAULT));
    }
}
