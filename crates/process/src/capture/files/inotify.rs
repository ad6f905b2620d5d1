//! inotify: the kernel tells the inode and a file handle of each watch; a path is found by the handle, or by a search.

use super::class::{Class, refuse};
use super::survey::{Look, Survey};
use super::{Capture, Error, find};
use crate::records::file::{Kind, Watch};
use ferry_sys::fdinfo::WatchLine;
use ferry_sys::ioctl;
use rustix::fs::{Mode, OFlags};

/// Refuses an instance with unread events: they cannot be looked at without being taken.
pub(super) fn classify(survey: &Survey<'_>, look: &Look) -> Result<Class, Error> {
    let unread = survey.take(look).ok().and_then(|fd| ioctl::get(fd, ioctl::Int::Readable).ok()).unwrap_or(0);
    if unread > 0 {
        return Ok(refuse(
            look,
            &format!("an inotify instance with {unread} bytes of unread events"),
            "Let the program read them: they cannot be carried",
        ));
    }
    for line in &look.info.watches {
        if path_of(survey, line)?.is_none() {
            return Ok(refuse(
                look,
                &format!("an inotify watch ({}) on an inode to which no path was found", line.wd),
                "Remove the watch before the move, or give the file a name again",
            ));
        }
    }
    Ok(Class::Inotify)
}

/// What the instance watches.
pub(super) fn capture(capture: &Capture<'_>, look: &Look) -> Result<Kind, Error> {
    let mut watches = Vec::with_capacity(look.info.watches.len());
    for line in &look.info.watches {
        let path = path_of(capture.survey, line)?
            .ok_or_else(|| Error::busy(format!("{}: a watched file is gone", look.place())))?;
        // IN_IGNORED and IN_ISDIR are told, never asked for.
        let mask = line.mask & 0x0fff | line.mask & 0xf700_0000;
        watches.push(Watch { wd: line.wd, path, mask });
    }
    watches.sort_by_key(|watch| watch.wd);
    Ok(Kind::Inotify { watches })
}

fn path_of(survey: &Survey<'_>, line: &WatchLine) -> Result<Option<Vec<u8>>, Error> {
    Ok(match by_handle(survey, line) {
        Some(path) => Some(path),
        None => {
            let device = |dev: u64| rustix::fs::major(dev) << 20 | rustix::fs::minor(dev);
            find::search(
                survey,
                b"/",
                |dev, inode| inode == line.inode && device(dev) == line.device,
                |dev| device(dev) == line.device,
            )?
        }
    })
}

/// By the handle: on every mount of the workload with that device, the first that leads somewhere.
fn by_handle(survey: &Survey<'_>, line: &WatchLine) -> Option<Vec<u8>> {
    let wanted = format!("{}:{}", line.device >> 20, line.device & 0xf_ffff);
    let mounts =
        std::fs::read_to_string(format!("/proc/{}/mountinfo", survey.anyone().ok()?.host_pid)).ok()?;
    for mount in mounts.lines() {
        let words: Vec<&str> = mount.split(' ').collect();
        if words.get(2) != Some(&wanted.as_str()) {
            continue;
        }
        let point = unescape(words.get(4)?);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let root = survey.root().ok()?;
        let resolve = rustix::fs::ResolveFlags::IN_ROOT;
        let Ok(mount) = rustix::fs::openat2(root, os(&point), flags, Mode::empty(), resolve) else {
            continue;
        };
        let Ok(found) = ferry_sys::handle::open(&mount, line.handle_type, &line.handle) else { continue };
        use rustix::fd::AsRawFd as _;
        let link = format!("/proc/self/fd/{}", found.as_raw_fd());
        let path = rustix::fs::readlink(link, Vec::new()).ok()?.into_bytes();
        let stat = rustix::fs::fstat(&found).ok()?;
        if find::leads_to(survey, &path, (stat.st_dev, stat.st_ino)) {
            return Some(path);
        }
    }
    None
}

fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// Undoes the `\040` of mountinfo.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' {
            let digits: Vec<u8> = bytes.by_ref().take(3).collect();
            let value =
                digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit.wrapping_sub(b'0') & 7));
            out.push(value as u8);
        } else {
            out.push(byte);
        }
    }
    out
}
