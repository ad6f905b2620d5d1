//! What a description is, and whether this version moves it. One decision, used by the plan's inventory and by the capture.

use super::survey::{Look, Survey};
use super::{Error, FurnitureKind, find, inotify, pipe, unix};
use crate::records::file::NamelessKind;
use ferry_model::plan::Blocker;
use rustix::fs::{FileType, OFlags};

/// What a description is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A regular file with a name, or anything by `O_PATH`.
    File,
    /// A regular file whose name is gone, under another name that it has.
    Elsewhere(Vec<u8>),
    Directory,
    /// A character device that every host has: major, minor.
    Device(u32, u32),
    Pipe,
    Fifo,
    Nameless(NamelessKind),
    Event,
    Timer,
    Signal,
    Epoll,
    Inotify,
    /// Number of the terminal.
    TerminalMaster(u32),
    TerminalSlave(u32),
    Unix,
    Tcp,
    Udp,
    Netlink,
    /// Ferry holds the far end.
    Furniture(String),
    Unsupported(Blocker),
}

const PROC: i64 = 0x9fa0;
const SYSFS: i64 = 0x6265_6572;
const HUGETLB: i64 = 0x9584_58f6;
const MQUEUE: i64 = 0x1980_0202;
const NSFS: i64 = 0x6e73_6673;
const PIDFS: i64 = 0x5049_4446;
const FUSECTL: i64 = 0x6573_5543;
const SECRETMEM: i64 = 0x5345_434d;
const TRACEFS: i64 = 0x7472_6163;
const DEBUGFS: i64 = 0x6462_6720;
const BPF_FS: i64 = 0xcafe_4a11;

/// A blocker that names pid and descriptor.
pub(crate) fn refuse(look: &Look, what: &str, lifted_by: &str) -> Class {
    Class::Unsupported(blocker(look, what, lifted_by))
}

pub(crate) fn blocker(look: &Look, what: &str, lifted_by: &str) -> Blocker {
    Blocker { what: format!("{}: {what}", look.place()), lifted_by: lifted_by.to_owned() }
}

/// Says what `look` is.
pub(crate) fn classify(survey: &Survey<'_>, look: &Look) -> Result<Class, Error> {
    if let Some(name) = furniture(survey, look) {
        return Ok(Class::Furniture(name));
    }
    if let Some(lease) = look.info.locks.iter().find(|lock| matches!(&*lock.sort, "LEASE" | "DELEG")) {
        let what = format!("a file lease ({}) on {}", lease.sort, look.name());
        return Ok(refuse(
            look,
            &what,
            "End the lease (F_SETLEASE, F_UNLCK) before the move: leases do not move",
        ));
    }
    if let Some(kind) = look.link.strip_prefix(b"anon_inode:") {
        return anonymous(survey, look, &String::from_utf8_lossy(kind));
    }
    match FileType::from_raw_mode(look.stat.st_mode) {
        FileType::Socket if !look.has(OFlags::PATH) => socket(survey, look),
        FileType::Fifo if !look.has(OFlags::PATH) => pipe::classify(survey, look),
        FileType::CharacterDevice if !look.has(OFlags::PATH) => Ok(device(look)),
        FileType::BlockDevice if !look.has(OFlags::PATH) => Ok(refuse(
            look,
            &format!("the block device {}", look.name()),
            "Close it before the move: a disk cannot be moved with a process",
        )),
        FileType::Directory if !look.has(OFlags::PATH) => Ok(directory(look)),
        _ => regular(survey, look),
    }
}

fn furniture(survey: &Survey<'_>, look: &Look) -> Option<String> {
    let found = survey.furniture.iter().find(|piece| match piece.what {
        FurnitureKind::Pipe(inode) => look.link == format!("pipe:[{inode}]").as_bytes(),
        FurnitureKind::Socket(inode) => look.link == format!("socket:[{inode}]").as_bytes(),
        FurnitureKind::File(device, inode) => look.key() == (device, inode),
        // The slave itself goes by its terminal, whose record names the furniture.
        FurnitureKind::Terminal(_) => false,
    })?;
    Some(found.name.clone())
}

fn anonymous(survey: &Survey<'_>, look: &Look, kind: &str) -> Result<Class, Error> {
    Ok(match kind.trim_matches(['[', ']']) {
        "eventfd" => Class::Event,
        "timerfd" => timer(look),
        "signalfd" => Class::Signal,
        "eventpoll" => Class::Epoll,
        "inotify" => return inotify::classify(survey, look),
        "io_uring" => refuse(
            look,
            "an io_uring instance",
            "Start the program without io_uring (many have a switch for it); its rings live in the kernel and cannot be read out",
        ),
        "userfaultfd" => refuse(
            look,
            "a userfaultfd",
            "Stop the program's own fault handling before the move: pending faults cannot be carried",
        ),
        "perf_event" => {
            refuse(look, "a performance counter (perf_event)", "Stop profiling it before the move")
        }
        "fanotify" => {
            refuse(look, "a fanotify group", "Stop it before the move: it watches this host's file systems")
        }
        "pidfd" => refuse(look, "a pidfd", PIDFD_LIFT),
        kind if kind.starts_with("kvm") => {
            refuse(look, "a KVM virtual machine", "Move it as a virtual machine, not as a process")
        }
        kind if kind.starts_with("bpf") => refuse(
            look,
            "a BPF object",
            "Unload it before the move: BPF programs and maps belong to this host's kernel",
        ),
        kind => refuse(
            look,
            &format!("a kernel object of the kind {kind:?}"),
            "Close it before the move: this version does not know how to carry it",
        ),
    })
}

const PIDFD_LIFT: &str = "Close it before the move: this version does not carry descriptors of processes";

fn timer(look: &Look) -> Class {
    match look.info.timer.map(|timer| timer.clock) {
        // Realtime, monotonic, boottime and the two alarm clocks.
        Some(0 | 1 | 7 | 8 | 9) => Class::Timer,
        _ => refuse(look, "a timerfd on an unknown clock", "Close it before the move"),
    }
}

fn device(look: &Look) -> Class {
    let major = rustix::fs::major(look.stat.st_rdev);
    let minor = rustix::fs::minor(look.stat.st_rdev);
    match (major, minor) {
        (1, 3 | 5 | 7 | 8 | 9) => Class::Device(major, minor),
        (5, 2) => match look.info.terminal {
            Some(index) => Class::TerminalMaster(index),
            None => refuse(look, "a terminal master without a number", "Close it before the move"),
        },
        (5, 0) => match controlling_terminal(look.task.host_pid) {
            Some(index) => Class::TerminalSlave(index),
            None => refuse(
                look,
                "/dev/tty of a session whose terminal is not a pseudo-terminal",
                "Start it by `ferry run -it`",
            ),
        },
        (136, _) => Class::TerminalSlave(minor),
        (10, 232) => refuse(look, "/dev/kvm", "Move it as a virtual machine, not as a process"),
        (10, 229) => refuse(look, "/dev/fuse", "Unmount its file system before the move"),
        (10, 200) => {
            refuse(look, "a tun or tap device", "Close it before the move: it belongs to this host's network")
        }
        _ => refuse(
            look,
            &format!("the device {} ({major}:{minor})", look.name()),
            "Close it before the move: only null, zero, full, random, urandom and terminals are on every host",
        ),
    }
}

/// The pseudo-terminal that controls a task's session (`tty_nr` of `/proc/PID/stat`).
fn controlling_terminal(host_pid: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{host_pid}/stat")).ok()?;
    let number: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(4)?.parse().ok()?;
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    (major == 136).then_some(minor)
}

fn directory(look: &Look) -> Class {
    if look.stat.st_nlink == 0 {
        return refuse(
            look,
            &format!("the deleted directory {}", look.name()),
            "Close it before the move: a directory without a name cannot be made again",
        );
    }
    Class::Directory
}

fn regular(survey: &Survey<'_>, look: &Look) -> Result<Class, Error> {
    let path = format!("/proc/{}/fd/{}", look.task.host_pid, look.fd);
    let magic = rustix::fs::statfs(path).map_or(0, |stat| stat.f_type);
    let by_kernel = match magic {
        HUGETLB => {
            Some(("memory in huge pages (hugetlbfs)", "Start the program without huge pages of hugetlbfs"))
        }
        MQUEUE => {
            Some(("a POSIX message queue", "Close it before the move: message queues are not carried yet"))
        }
        NSFS => Some(("a namespace", "Close it before the move: handles of namespaces are not carried")),
        PIDFS => Some(("a pidfd", PIDFD_LIFT)),
        FUSECTL | TRACEFS | DEBUGFS | BPF_FS => Some((
            "a file of the kernel's own control file systems",
            "Close it before the move: it belongs to this host's kernel",
        )),
        SECRETMEM => {
            Some(("secret memory (memfd_secret)", "Nobody but the program can read it, so it cannot move"))
        }
        _ => None,
    };
    if let Some((what, lift)) = by_kernel {
        return Ok(refuse(look, &format!("{what}: {}", look.name()), lift));
    }
    if look.link.starts_with(b"/memfd:") && look.stat.st_nlink == 0 {
        return Ok(Class::Nameless(NamelessKind::Memfd));
    }
    if matches!(magic, PROC | SYSFS) {
        return Ok(Class::File);
    }
    if look.stat.st_nlink == 0 {
        if FileType::from_raw_mode(look.stat.st_mode) != FileType::RegularFile {
            return Ok(refuse(
                look,
                &format!("the deleted {}", look.name()),
                "Close it before the move: it has no name by which it could be made again",
            ));
        }
        // The kernel keeps O_TMPFILE among the flags of such a file.
        let temporary = look.info.flags & OFlags::TMPFILE.bits() == OFlags::TMPFILE.bits();
        let kind = if temporary { NamelessKind::Temporary } else { NamelessKind::Deleted };
        if !survey.objects.contains(&look.key()) && look.stat.st_size as u64 > super::CARRIED_BYTES_MAX {
            return Ok(refuse(
                look,
                &format!("the deleted file {} of {} bytes", look.name(), look.stat.st_size),
                &format!(
                    "Give it a name again (ln -L /proc/PID/fd/N PATH), or close it: up to {} MiB are carried",
                    super::CARRIED_BYTES_MAX >> 20
                ),
            ));
        }
        return Ok(Class::Nameless(kind));
    }
    if look.has(OFlags::PATH) || find::leads_to(survey, &look.link, look.key()) {
        return Ok(Class::File);
    }
    // Removed or replaced, with another link: one is looked for, near its old place first.
    let (device, inode) = look.key();
    let old = look.link.strip_suffix(b" (deleted)").unwrap_or(&look.link);
    let other = find::search(survey, old, |dev, ino| (dev, ino) == (device, inode), |dev| dev == device)?;
    Ok(match other {
        Some(path) => Class::Elsewhere(path),
        // Only when nothing is stopped: it was renamed, removed or closed since it was looked at, and the next look says what it is.
        None if look.has_changed() => Class::File,
        None => refuse(
            look,
            &format!("the file {}, which has another name that was not found", look.name()),
            "Give it a name in the workload's own tree, or close it",
        ),
    })
}

/// Whether a netlink socket is in a multicast group.
fn subscribed(fd: &rustix::fd::OwnedFd) -> bool {
    let first = ferry_sys::sockaddr::local(fd)
        .is_ok_and(|address| address.get(8..12).is_some_and(|groups| groups != [0; 4]));
    // Groups above 32 are told by an option only.
    let memberships = ferry_sys::sockopt::get(fd, libc::SOL_NETLINK, libc::NETLINK_LIST_MEMBERSHIPS);
    first || memberships.is_ok_and(|words| words.iter().any(|&byte| byte != 0))
}

fn socket(survey: &Survey<'_>, look: &Look) -> Result<Class, Error> {
    use ferry_sys::sockopt::get_int;
    let fd = match survey.take(look) {
        Ok(fd) => fd,
        // Closed meanwhile: only when nothing is stopped.
        Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EBADF) => {
            return Ok(refuse(look, "a socket that was closed just now", "Look again"));
        }
        Err(error) => return Err(error),
    };
    let option = |name| {
        get_int(&fd, libc::SOL_SOCKET, name).map_err(Error::kernel(format!("look at {}", look.place())))
    };
    let (domain, sort, protocol) =
        (option(libc::SO_DOMAIN)?, option(libc::SO_TYPE)?, option(libc::SO_PROTOCOL)?);
    // A capture that was killed leaves its own filter on connections in repair mode.
    let held = protocol == libc::IPPROTO_TCP && ferry_sys::tcp_repair::active(&fd).unwrap_or(false);
    // With no room given, the kernel tells how many instructions a filter has.
    if !held
        && ferry_sys::sockopt::get_into(&fd, libc::SOL_SOCKET, libc::SO_GET_FILTER, &mut [])
            .is_ok_and(|len| len > 0)
    {
        return Ok(refuse(
            look,
            "a socket with a packet filter (SO_ATTACH_FILTER)",
            "Let the program detach it before the move: filters are not carried",
        ));
    }
    let lift = "Close it before the move: this version carries Unix, TCP, UDP and netlink sockets";
    Ok(match (domain, sort, protocol) {
        (libc::AF_UNIX, ..) => return unix::classify(survey, look, sort),
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP) => {
            super::tcp::classify(look, &fd)?
        }
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP) => Class::Udp,
        (libc::AF_INET | libc::AF_INET6, _, 262) => refuse(
            look,
            "a multipath TCP socket",
            "Start the program without MPTCP: its subflows cannot be read out",
        ),
        (libc::AF_INET | libc::AF_INET6, _, libc::IPPROTO_SCTP) => refuse(look, "an SCTP socket", lift),
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_RAW, _) => refuse(look, "a raw IP socket", lift),
        (libc::AF_INET | libc::AF_INET6, ..) => {
            refuse(look, &format!("an IP socket of protocol {protocol}"), lift)
        }
        (libc::AF_NETLINK, ..) => {
            if ferry_sys::unix_diag::has_unread(&fd).unwrap_or(true) {
                refuse(look, "a netlink socket with unread messages", "Let the program read them first")
            } else if subscribed(&fd) {
                refuse(
                    look,
                    "a netlink socket that listens to events of this host's kernel",
                    "Close it before the move: what it would be told at the target is about another host",
                )
            } else {
                Class::Netlink
            }
        }
        (libc::AF_PACKET, ..) => refuse(look, "a packet socket", lift),
        (libc::AF_VSOCK, ..) => refuse(look, "a vsock socket", lift),
        (libc::AF_ALG, ..) => refuse(look, "a socket of the kernel's cryptography (AF_ALG)", lift),
        (libc::AF_XDP, ..) => refuse(look, "an XDP socket", lift),
        _ => refuse(look, &format!("a socket of family {domain}"), lift),
    })
}
