//! Memory of a task that records and data are written to: its own pages, or pages that it shares with us.
#![allow(unsafe_code)]

use super::Error;
use super::program::{Layout, Program};
use crate::process_vm;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Memory shared between the tracer and its puppets: a mapping of a memory file.
#[derive(Debug)]
pub struct SharedMemory {
    at: *mut u8,
    len: usize,
}

impl SharedMemory {
    /// Maps `len` bytes of `file`.
    ///
    /// # Errors
    /// ENOMEM and the like.
    pub fn map(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice; it is unmapped by drop only.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { at: at.cast(), len }) }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset as usize + bytes.len() <= self.len, "a write outside of the shared memory");
        // SAFETY: within the mapping (checked above). The tasks that share it are stopped, and nobody holds a reference into it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(offset as usize), bytes.len()) }
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) {
        assert!(offset as usize + bytes.len() <= self.len, "a read outside of the shared memory");
        // SAFETY: as in `write`.
        unsafe {
            std::ptr::copy_nonoverlapping(self.at.add(offset as usize), bytes.as_mut_ptr(), bytes.len())
        }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody refers to any more.
        unsafe {
            libc::munmap(self.at.cast(), self.len);
        }
    }
}

/// How an area's bytes are reached.
#[derive(Debug)]
pub enum Reach<'a> {
    /// By `process_vm_writev` to this process.
    Process(i32),
    /// Through memory that is mapped here too; the task has it at this address.
    Shared(&'a SharedMemory, u64),
}

impl Reach<'_> {
    /// Writes bytes at an address of the task.
    ///
    /// # Errors
    /// EFAULT where nothing writable is mapped.
    pub fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Process(pid) => match process_vm::write(*pid, address, bytes)? {
                count if count == bytes.len() => Ok(()),
                _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
            },
            Self::Shared(memory, base) => {
                memory.write(address - base, bytes);
                Ok(())
            }
        }
    }

    /// Reads bytes at an address of the task.
    ///
    /// # Errors
    /// EFAULT where nothing readable is mapped.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Process(pid) => match process_vm::read(*pid, address, bytes)? {
                count if count == bytes.len() => Ok(()),
                _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
            },
            Self::Shared(memory, base) => {
                memory.read(address - base, bytes);
                Ok(())
            }
        }
    }

    /// Writes a program to where it was laid out for.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when it does not fit.
    pub fn load(&self, program: &Program) -> Result<(), Error> {
        let Layout { records, data, .. } = program.layout();
        let (record_bytes, data_bytes) = program.images()?;
        self.write(records, &record_bytes)?;
        if !data_bytes.is_empty() {
            self.write(data, data_bytes)?;
        }
        Ok(())
    }

    /// Reads results and data back into the program.
    ///
    /// # Errors
    /// When the task is gone.
    pub fn store(&self, program: &mut Program) -> Result<(), Error> {
        let Layout { records, data, .. } = program.layout();
        let (mut record_bytes, data_bytes) = program.images()?;
        let mut data_bytes = data_bytes.to_vec();
        self.read(records, &mut record_bytes)?;
        if !data_bytes.is_empty() {
            self.read(data, &mut data_bytes)?;
        }
        program.take_back(&record_bytes, data_bytes);
        Ok(())
    }
}
