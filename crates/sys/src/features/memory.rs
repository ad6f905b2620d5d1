//! Probes of what reads, tracks and fills memory.
#![allow(unsafe_code)]

use super::{Need, Probe, Seen, why};
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::fs::File;
use std::io;
use std::path::Path;

pub(super) const PROBES: &[Probe] = &[
    Probe {
        name: "process-vm",
        needed_for: "reading and writing the memory of tasks",
        cost_if_missing: "no memory can be moved (CONFIG_CROSS_MEMORY_ATTACH)",
        need: Need::Always,
        probe: process_vm,
    },
    Probe {
        name: "pagemap-scan",
        needed_for: "finding the pages that hold content, in one call",
        cost_if_missing: "every page is read to see whether it holds anything (Linux 6.7 has it)",
        need: Need::Sometimes,
        probe: |_| {
            let page = Page::new()?;
            if page.scan(PRESENT, 0)? != 0 {
                return Err("an untouched page is reported".into());
            }
            page.touch(1);
            if page.scan(PRESENT, 0)? == 1 {
                Ok("one touched page was found".into())
            } else {
                Err("a touched page is not reported".into())
            }
        },
    },
    Probe {
        name: "userfaultfd-wp-async",
        needed_for: "live migration: tracking what a program writes",
        cost_if_missing: "no pre-copy: workloads are moved by stop-and-copy (Linux 6.7 has it)",
        need: Need::Sometimes,
        probe: wp_async,
    },
    Probe {
        name: "userfaultfd-missing",
        needed_for: "post-copy: running a workload whose pages are still missing",
        cost_if_missing: "no post-copy and no hybrid: what rounds do not carry travels in the pause",
        need: Need::Sometimes,
        probe: missing,
    },
    Probe {
        name: "procmap-query",
        needed_for: "asking about a single mapping",
        cost_if_missing: "all of /proc/PID/maps is read instead: slower (Linux 6.11 has it)",
        need: Need::Sometimes,
        probe: procmap_query,
    },
];

const PAGE: usize = 4096;
/// PAGE_IS_PRESENT and PAGE_IS_WRITTEN of PAGEMAP_SCAN.
const PRESENT: u64 = 1 << 3;
const WRITTEN: u64 = 1 << 1;
/// PM_SCAN_WP_MATCHING and PM_SCAN_CHECK_WPASYNC.
const WP_MATCHING: u64 = 1;
const CHECK_WPASYNC: u64 = 2;

/// One page of anonymous memory.
struct Page(*mut u8);

impl Page {
    fn new() -> Result<Self, String> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if start == libc::MAP_FAILED {
            Err(why("mmap")(io::Error::last_os_error()))
        } else {
            Ok(Self(start.cast()))
        }
    }

    fn touch(&self, value: u8) {
        // SAFETY: the page is mapped and writable while this value lives.
        unsafe { self.0.write_volatile(value) };
    }

    /// How many regions of it the kernel reports.
    fn scan(&self, categories: u64, flags: u64) -> Result<i32, String> {
        let pagemap = File::open("/proc/self/pagemap").map_err(why("open pagemap"))?;
        let mut regions = [0u64; 3 * 4];
        let start = self.0 as u64;
        // struct pm_scan_arg: size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted,
        // category_mask, category_anyof_mask, return_mask.
        let mut arg: [u64; 12] = [
            96,
            flags,
            start,
            start + PAGE as u64,
            0,
            regions.as_mut_ptr() as u64,
            4,
            0,
            0,
            categories,
            0,
            categories,
        ];
        // SAFETY: PAGEMAP_SCAN reads and writes `arg` and at most four regions of 24 bytes.
        let found = unsafe { libc::ioctl(pagemap.as_raw_fd(), 0xc060_6610, arg.as_mut_ptr()) };
        if found < 0 { Err(why("PAGEMAP_SCAN")(io::Error::last_os_error())) } else { Ok(found) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new` and is not used again.
        unsafe { libc::munmap(self.0.cast(), PAGE) };
    }
}

fn process_vm(_: &Path) -> Seen {
    let page = Page::new()?;
    let child = super::run::Sleeper::new().map_err(why("fork"))?;
    let mut read = [1u8; 8];
    let local = libc::iovec { iov_base: read.as_mut_ptr().cast(), iov_len: read.len() };
    let remote = libc::iovec { iov_base: page.0.cast(), iov_len: read.len() };
    // SAFETY: the kernel writes into `read` only; the remote address is looked up in the child.
    let length = unsafe { libc::process_vm_readv(child.0, &raw const local, 1, &raw const remote, 1, 0) };
    match length {
        8 if read == [0; 8] => Ok("a child's memory was read".into()),
        8 => Err("it reads something else".into()),
        _ => Err(why("process_vm_readv")(io::Error::last_os_error())),
    }
}

fn wp_async(_: &Path) -> Seen {
    use linux_raw_sys::general as raw;
    let page = Page::new()?;
    page.touch(1);
    // SAFETY: userfaultfd takes flags only; the descriptor is new and ours.
    let faults = unsafe {
        match libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) {
            -1 => return Err(why("userfaultfd")(io::Error::last_os_error())),
            fd => OwnedFd::from_raw_fd(fd as i32),
        }
    };
    let call = |name: &str, number: u64, argument: &mut [u64]| {
        // SAFETY: each of these calls reads and writes at most the structure that is given, of which the size is in `number`.
        let result = unsafe { libc::ioctl(faults.as_raw_fd(), number, argument.as_mut_ptr()) };
        if result < 0 { Err(why(name)(io::Error::last_os_error())) } else { Ok(()) }
    };
    let features = u64::from(raw::UFFD_FEATURE_WP_ASYNC) | u64::from(raw::UFFD_FEATURE_WP_UNPOPULATED);
    call("UFFDIO_API with WP_ASYNC", 0xc018_aa3f, &mut [0xaa, features, 0])?;
    let start = page.0 as u64;
    // Mode 2: write protection.
    call("UFFDIO_REGISTER", 0xc020_aa00, &mut [start, PAGE as u64, 2, 0])?;
    call("UFFDIO_WRITEPROTECT", 0xc018_aa06, &mut [start, PAGE as u64, 1])?;
    let clean = page.scan(WRITTEN, CHECK_WPASYNC)?;
    page.touch(2);
    let dirty = page.scan(WRITTEN, CHECK_WPASYNC | WP_MATCHING)?;
    let again = page.scan(WRITTEN, CHECK_WPASYNC)?;
    match (clean, dirty, again) {
        (0, 1, 0) => Ok("a write was seen, and tracking began anew".into()),
        seen => Err(format!("writes are not tracked rightly: {seen:?}")),
    }
}

/// With the events without which a child would read zeros.
fn missing(_: &Path) -> Seen {
    use crate::userfaultfd::{MissingPages, Placed};
    let page = Page::new()?;
    let fd = crate::userfaultfd::open().map_err(why("userfaultfd"))?;
    let pages = MissingPages::begin(fd).map_err(why("UFFDIO_API with its events"))?;
    let start = page.0 as u64;
    pages.expect(start, PAGE as u64).map_err(why("UFFDIO_REGISTER"))?;
    match pages.place(start, &[7; PAGE]).map_err(why("UFFDIO_COPY"))? {
        Placed::Bytes(bytes) if bytes == PAGE as u64 => {}
        other => return Err(format!("a missing page could not be put in: {other:?}")),
    }
    // SAFETY: the page is mapped and was filled just now.
    match unsafe { page.0.read_volatile() } {
        7 => Ok("a missing page was put in its place".into()),
        other => Err(format!("a page that was put in reads as {other}")),
    }
}

fn procmap_query(_: &Path) -> Seen {
    let page = Page::new()?;
    let maps = File::open("/proc/self/maps").map_err(why("open maps"))?;
    // struct procmap_query: size, flags, address, then what the kernel fills in.
    let mut query = [0u64; 13];
    (query[0], query[2]) = (104, page.0 as u64);
    // SAFETY: PROCMAP_QUERY reads and writes 104 bytes.
    let result = unsafe { libc::ioctl(maps.as_raw_fd(), 0xc068_6611, query.as_mut_ptr()) };
    if result < 0 {
        return Err(why("PROCMAP_QUERY")(io::Error::last_os_error()));
    }
    let inside = query[3] <= page.0 as u64 && query[4] > page.0 as u64;
    if inside {
        Ok("a mapping was found by its address".into())
    } else {
        Err("it gives another mapping".into())
    }
}
