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

/// Most pieces that the kernel takes in one call (IOV_MAX).
pub const PIECES_MAX: usize = 1024;

/// Reads the `pieces` (address, length in bytes) of process `pid` into `buffer`, one after the other; returns how many bytes. At
/// most [`PIECES_MAX`] of them, whose lengths must not exceed the buffer. Stops at the first page that cannot be read.
pub fn read_pieces(pid: i32, pieces: &[(u64, usize)], buffer: &mut [u8]) -> io::Result<usize> {
    let remote = remote_iovecs(pieces, buffer.len())?;
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `local` describes `buffer`, which is exclusively borrowed and alive for the whole call; `remote` holds addresses
    // of the other process, which only the kernel interprets, and its length is that of the vector.
    let count =
        unsafe { libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Writes `bytes` over the `pieces` (address, length in bytes) of process `pid`; returns how many bytes. Bounds as for
/// [`read_pieces`].
pub fn write_pieces(pid: i32, pieces: &[(u64, usize)], bytes: &[u8]) -> io::Result<usize> {
    let remote = remote_iovecs(pieces, bytes.len())?;
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the kernel only reads from `local`, which describes `bytes`, alive for the whole call; `remote` holds addresses of
    // the other process, which only the kernel interprets, and its length is that of the vector.
    let count =
        unsafe { libc::process_vm_writev(pid, &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn remote_iovecs(pieces: &[(u64, usize)], bytes: usize) -> io::Result<Vec<libc::iovec>> {
    let sum = pieces.iter().try_fold(0_usize, |sum, (_, len)| sum.checked_add(*len));
    if pieces.len() > PIECES_MAX || sum.is_none_or(|sum| sum > bytes) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(pieces
        .iter()
        .map(|(address, len)| libc::iovec { iov_base: *address as *mut libc::c_void, iov_len: *len })
        .collect())
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

    #[test]
    fn pieces_are_gathered_in_order() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut there = vec![0u8; 3000];
        let base = there.as_mut_ptr() as u64;
        let pieces = [(base + 2000, 500), (base, 100), (base + 1000, 7)];
        let sent: Vec<u8> = (0..607_u32).map(|n| n as u8).collect();
        assert_eq!(write_pieces(pid, &pieces, &sent).unwrap(), 607);
        assert_eq!(std::hint::black_box(&there)[2000..2003], [0, 1, 2]);
        let mut back = vec![0; 607];
        assert_eq!(read_pieces(pid, &pieces, &mut back).unwrap(), 607);
        assert_eq!(back, sent);
        assert!(read_pieces(pid, &pieces, &mut back[..606]).is_err());
        assert!(read_pieces(pid, &[(base, 1); PIECES_MAX + 1], &mut [0; 2000]).is_err());
    }
}
