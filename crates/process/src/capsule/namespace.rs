//! Work inside of a capsule's namespaces, from outside.
//!
//! Host name, System V objects and network are a thread's own affair: it goes in, works, and comes back, which costs some
//! microseconds where a forked helper costs a millisecond, of a time in which the workload stands still. It stays outside of the
//! pid namespace and of the workload's cgroup: a frozen workload does not hinder it, and no task of it ever sees it.

use super::Capsule;
use super::error::{Doing, Error, Result};
use crate::records::capsule::{Ipc, Setting};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::LinkNameSpaceType;
pub use rustix::thread::ThreadNameSpaceType as Kinds;
use std::fs;
use std::io;

/// Settings of ipc and network namespaces that travel: files beneath /proc/sys.
const IPC_SETTINGS: [&str; 9] = [
    "kernel/shmmax",
    "kernel/shmall",
    "kernel/shmmni",
    "kernel/sem",
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "fs/mqueue/msg_max",
    "fs/mqueue/msgsize_max",
];
const NETWORK_SETTINGS: [&str; 14] = [
    "net/core/somaxconn",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ip_nonlocal_bind",
    "net/ipv4/tcp_fin_timeout",
    "net/ipv4/tcp_keepalive_intvl",
    "net/ipv4/tcp_keepalive_probes",
    "net/ipv4/tcp_keepalive_time",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_syncookies",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/ping_group_range",
    "net/ipv6/bindv6only",
];
const SETTING_BYTES_MAX: usize = 4096;

/// The namespaces that a thread can enter and leave again.
const OWN: [(Kinds, LinkNameSpaceType, &str); 3] = [
    (Kinds::NETWORK, LinkNameSpaceType::Network, "net"),
    (Kinds::INTER_PROCESS_COMMUNICATION, LinkNameSpaceType::InterProcessCommunication, "ipc"),
    (Kinds::HOST_NAME_AND_NIS_DOMAIN_NAME, LinkNameSpaceType::HostNameAndNISDomainName, "uts"),
];

/// The calling thread's own namespaces, to which it goes back when this is dropped.
struct Away(Vec<(OwnedFd, LinkNameSpaceType)>);

impl Away {
    fn from(kinds: Kinds) -> io::Result<Self> {
        let open = |(_, kind, name): &(Kinds, LinkNameSpaceType, &str)| {
            let path = format!("/proc/thread-self/ns/{name}");
            let opened = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            Ok((opened, *kind))
        };
        OWN.iter().filter(|(kind, ..)| kinds.contains(*kind)).map(open).collect::<io::Result<_>>().map(Self)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        for (own, kind) in &self.0 {
            // It was there a moment ago, and holds it open: only a bug keeps it from going back, and then nothing may go on.
            rustix::thread::move_into_link_name_space(own.as_fd(), Some(*kind))
                .expect("back in the own namespaces");
        }
    }
}

/// Runs `work` in namespaces `kinds` (network, System V objects, host name) of the process that `member` is a pidfd of, on this thread.
///
/// # Errors
/// What `work` returned, or that the namespaces could not be entered.
pub fn inside<T>(
    member: BorrowedFd<'_>,
    kinds: Kinds,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let known = OWN.iter().fold(Kinds::empty(), |known, (kind, ..)| known | *kind);
    if !known.contains(kinds) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "A namespace from which no thread comes back",
        ));
    }
    let _away = Away::from(kinds)?;
    rustix::thread::move_into_thread_name_spaces(member, kinds)?;
    work()
}

impl Capsule {
    /// Runs `work` in the capsule's namespaces `kinds`, on this thread, which stays outside of its pid namespace and cgroup.
    ///
    /// # Errors
    /// As [`inside`].
    pub fn inside<T>(&self, kinds: Kinds, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        inside(self.init.as_fd(), kinds, work)
    }

    /// Applies captured settings of namespaces. A file that this kernel does not have is skipped, if it is one that
    /// Ferry captures; any other is refused.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a setting that Ferry does not capture, the kernel's word for one that it refuses.
    pub fn restore_settings(&self, settings: &[Setting]) -> Result<()> {
        for setting in settings {
            let ipc = IPC_SETTINGS.contains(&setting.file.as_str());
            let network = self.own_network() && NETWORK_SETTINGS.contains(&setting.file.as_str());
            if !(ipc || network) || setting.value.len() > SETTING_BYTES_MAX {
                return Err(Error::Invalid(format!("The setting {} is not one of a capsule", setting.file)));
            }
        }
        self.inside(self.setting_kinds(), || {
            for setting in settings {
                let path = format!("/proc/sys/{}", setting.file);
                match fs::read_to_string(&path) {
                    Ok(present) if present.trim_end() == setting.value => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                    Ok(_) => fs::write(&path, &setting.value)?,
                }
            }
            Ok(())
        })
        .doing(|| "restore the settings of the capsule's namespaces".into())
    }

    fn setting_kinds(&self) -> Kinds {
        let network = if self.own_network() { Kinds::NETWORK } else { Kinds::empty() };
        Kinds::INTER_PROCESS_COMMUNICATION | network
    }
}

/// What can only be read in the namespaces: host and domain name, System V objects, settings. In one go: the workload is frozen
/// meanwhile.
pub(super) fn read(capsule: &Capsule) -> Result<(String, String, Ipc, Vec<Setting>)> {
    let files = IPC_SETTINGS.iter().chain(NETWORK_SETTINGS.iter().filter(|_| capsule.own_network()));
    capsule
        .inside(capsule.setting_kinds() | Kinds::HOST_NAME_AND_NIS_DOMAIN_NAME, || {
            let names = rustix::system::uname();
            let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
            Ok((text(names.nodename()), text(names.domainname()), super::ipc::describe()?, settings(files)))
        })
        .doing(|| "read what is in the capsule's namespaces".into())
}

fn settings<'a>(files: impl Iterator<Item = &'a &'static str>) -> Vec<Setting> {
    files
        .filter_map(|file| {
            let value = fs::read_to_string(format!("/proc/sys/{file}")).ok()?;
            Some(Setting { file: (*file).into(), value: value.trim_end().into() })
        })
        .filter(|setting| setting.value.len() <= SETTING_BYTES_MAX)
        .collect()
}
