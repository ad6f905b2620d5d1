//! One space that has been opened: the pid with its `/proc/PID/mem`, or the file.

use crate::access::Via;
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
                // What process_vm_readv refuses (PROT_NONE with content) the mem file still gives.
                mem.read_exact_at(&mut buffer[done..], address + done as u64)
            }
            Self::File(file) => file.read_exact_at(buffer, address),
        }
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Task { pid, mem } => {
                let done = process_vm::write(*pid, address, bytes).unwrap_or(0);
                // Read-only private pages (RELRO, text that was written to) are only written by the mem file.
                mem.write_all_at(&bytes[done..], address + done as u64)
            }
            Self::File(file) => file.write_all_at(bytes, address),
        }
    }
}
