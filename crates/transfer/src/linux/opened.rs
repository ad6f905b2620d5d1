//! One space that has been opened: the pid with its `/proc/PID/mem`, or the file.

use crate::access::Via;
use crate::space::Range;
use ferry_sys::process_vm;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

pub(super) enum Opened {
    Task { pid: i32, mem: File },
    File(File),
}

impl Opened {
    pub(super) fn open(via: &Via, writable: bool) -> io::Result<Self> {
        let open = |path: &str| OpenOptions::new().read(true).write(writable).open(path);
        Ok(match via {
            Via::Task { pid } => Self::Task { pid: *pid, mem: open(&format!("/proc/{pid}/mem"))? },
            Via::File { path } => Self::File(open(path)?),
        })
    }

    pub(super) fn read(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Task { pid, mem } => {
                let done = process_vm::read(*pid, address, buffer).unwrap_or(0);
                let done = if lives(mem, address) { done } else { 0 };
                // What process_vm_readv refuses (PROT_NONE with content) the mem file still gives.
                mem.read_exact_at(&mut buffer[done..], address + done as u64)
            }
            Self::File(file) => {
                let len = within(file, address, buffer.len())?;
                buffer[len..].fill(0);
                file.read_exact_at(&mut buffer[..len], address)
            }
        }
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Task { pid, mem } => {
                let done = process_vm::write(*pid, address, bytes).unwrap_or(0);
                // Read-only private pages (RELRO, text that was written to) are only written by the mem file.
                mem.write_all_at(&bytes[done..], address + done as u64)
            }
            Self::File(file) => file.write_all_at(&bytes[..within(file, address, bytes.len())?], address),
        }
    }

    /// Reads `ranges` one after the other, as many of them with one call as the kernel takes.
    pub(super) fn read_ranges(&self, ranges: &[Range], mut buffer: &mut [u8]) -> io::Result<()> {
        for group in ranges.chunks(process_vm::PIECES_MAX) {
            let bytes = checked(group, buffer.len())?;
            let (mut part, rest) = buffer.split_at_mut(bytes);
            buffer = rest;
            if let (Self::Task { pid, mem }, Some(first)) = (self, group.first())
                && process_vm::read_pieces(*pid, &pieces(group), part).is_ok_and(|done| done == bytes)
                && lives(mem, first.start)
            {
                continue;
            }
            for range in group {
                let (head, tail) = part.split_at_mut(range.len as usize);
                self.read(range.start, head)?;
                part = tail;
            }
        }
        Ok(())
    }

    /// Writes over `ranges` one after the other.
    pub(super) fn write_ranges(&self, ranges: &[Range], mut bytes: &[u8]) -> io::Result<()> {
        for group in ranges.chunks(process_vm::PIECES_MAX) {
            let len = checked(group, bytes.len())?;
            let (mut part, rest) = bytes.split_at(len);
            bytes = rest;
            if let Self::Task { pid, .. } = self
                && process_vm::write_pieces(*pid, &pieces(group), part).is_ok_and(|done| done == len)
            {
                continue;
            }
            for range in group {
                let (head, tail) = part.split_at(range.len as usize);
                self.write(range.start, head)?;
                part = tail;
            }
        }
        Ok(())
    }
}

/// Whether the address space that was opened is still there: its pid may be another's by now, the file never is.
fn lives(mem: &File, address: u64) -> bool {
    mem.read_at(&mut [0], address).is_ok_and(|count| count == 1)
}

/// How many of `len` bytes at `address` a file has: its last page reads as zero behind its end, and writing there would make it longer.
fn within(file: &File, address: u64, len: usize) -> io::Result<usize> {
    let rest = file.metadata()?.len().saturating_sub(address);
    Ok(usize::try_from(rest).map_or(len, |rest| rest.min(len)))
}

/// Sum of the lengths, if it is at most `limit`.
fn checked(ranges: &[Range], limit: usize) -> io::Result<usize> {
    let sum = ranges.iter().try_fold(0_u64, |sum, range| sum.checked_add(range.len));
    sum.and_then(|sum| usize::try_from(sum).ok())
        .filter(|sum| *sum <= limit)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the ranges are longer than the buffer"))
}

fn pieces(ranges: &[Range]) -> Vec<(u64, usize)> {
    ranges.iter().map(|range| (range.start, range.len as usize)).collect()
}
