//! Memory of this process: mmap(2), madvise(2) and mprotect(2) behind values that unmap themselves.
//!
//! Fresh anonymous memory is for benchmarks, which must know that it was never touched and that a mapping is one of its own; the
//! allocator promises neither. Mapped files are for tests of what leaves no trace.
#![allow(unsafe_code)]

use std::io;

/// Size of the pages in which mappings are counted, bytes.
const PAGE: usize = 4096;

/// A private anonymous mapping, read and written.
#[derive(Debug)]
pub struct Mapped {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the memory belongs to this value alone; access to it follows Rust's borrows of the value.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps `bytes`, rounded up to pages. Nothing is touched.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let bytes = bytes.max(1).next_multiple_of(PAGE);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address that the kernel chooses touches no memory that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), bytes })
    }

    /// Asks for huge pages, or for none.
    pub fn huge(&self, wanted: bool) -> io::Result<()> {
        let advice = if wanted { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: the range is this value's mapping; the advice changes no content.
        check(unsafe { libc::madvise(self.start.cast(), self.bytes, advice) })
    }

    /// Gives `len` bytes at `offset` back (pages): they read as zero afterwards.
    pub fn discard(&mut self, offset: usize, len: usize) -> io::Result<()> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.bytes));
        // SAFETY: the range lies within this value's mapping, which is borrowed exclusively; only its content changes.
        check(unsafe { libc::madvise(self.start.add(offset).cast(), len, libc::MADV_DONTNEED) })
    }

    /// Makes one mapping into many: every other page becomes read-only, so that the kernel cannot join them. Touch them before.
    pub fn stripe(self) -> io::Result<Striped> {
        for offset in (0..self.bytes).step_by(2 * PAGE) {
            // SAFETY: the page lies within this value's mapping, and `Striped` never hands it out for writing.
            check(unsafe { libc::mprotect(self.start.add(offset).cast(), PAGE, libc::PROT_READ) })?;
        }
        Ok(Striped(self))
    }
}

/// A shared mapping of a file, only stored into: others may change its content at any time, so no borrow of it is handed out.
#[derive(Debug)]
pub struct SharedFile(Mapped);

impl SharedFile {
    /// Maps the first `bytes` of a file, rounded up to pages.
    ///
    /// # Errors
    /// The file cannot be mapped for writing.
    pub fn new(file: &impl std::os::fd::AsRawFd, bytes: usize) -> io::Result<Self> {
        let bytes = bytes.max(1).next_multiple_of(PAGE);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that exists.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(Mapped { start: start.cast(), bytes }))
    }

    /// Stores one byte. The file must reach that far: beyond its end the kernel ends this process.
    pub fn store(&self, at: usize, byte: u8) {
        assert!(at < self.0.bytes);
        // SAFETY: the address lies within the mapping, which is writable; no reference to it exists.
        unsafe { self.0.start.add(at).write_volatile(byte) }
    }
}

impl std::ops::Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is readable, `bytes` long, and lives as long as the value.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }
}

impl std::ops::DerefMut for Mapped {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for reading; the mapping is writable and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, is unmapped once, and no borrow of it is left.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

/// As many mappings as there were pages, still readable as one run.
#[derive(Debug)]
pub struct Striped(Mapped);

impl std::ops::Deref for Striped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_are_mappings_of_their_own_and_keep_their_content() {
        let count = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        let mut mapped = Mapped::new(200 * PAGE).unwrap();
        mapped.huge(false).unwrap();
        for (number, page) in mapped.chunks_exact_mut(PAGE).enumerate() {
            page[0] = number as u8;
        }
        let before = count();
        let striped = mapped.stripe().unwrap();
        assert!(count() >= before + 190, "{before} mappings became {}", count());
        assert!(striped.chunks_exact(PAGE).enumerate().all(|(number, page)| page[0] == number as u8));
    }
}
