//! Work inside of a capsule's namespaces, from outside.
//!
//! A process with one thread can enter all of them, but not come back from some: so a forked helper enters, works,
//! and hands its result over a pipe. It stays outside of the pid namespace and of the workload's cgroup: a frozen
//! workload does not hinder it, and no task of it ever sees it.

use super::Capsule;
use super::error::{Doing, Error, Result};
use crate::records::capsule::{Ipc, Setting};
use ferry_sys::fork::{self, Forked};
use minicbor::{Decode, Encode};
use rustix::fd::{AsFd, BorrowedFd};
pub use rustix::thread::ThreadNameSpaceType as Kinds;
use std::fs::{self, File};
use std::io::{self, Read, Write};

/// Largest result of a helper.
const RESULT_BYTES_MAX: u64 = 256 << 20;
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

/// Runs `work` in namespaces `kinds` of the process that `member` is a pidfd of, in a forked helper.
///
/// # Errors
/// What `work` returned, or that the helper could not enter or died.
pub fn inside<T>(member: BorrowedFd<'_>, kinds: Kinds, work: impl FnOnce() -> io::Result<T>) -> io::Result<T>
where
    T: Encode<()> + for<'b> Decode<'b, ()>,
{
    let (reader, writer) = io::pipe()?;
    match fork::fork()? {
        Forked::Child => {
            drop(reader);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                rustix::thread::move_into_thread_name_spaces(member, kinds)?;
                work()
            }));
            let told: std::result::Result<T, (i32, String)> = match result {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err((error.raw_os_error().unwrap_or(0), error.to_string())),
                Err(_) => Err((0, "The helper failed".into())),
            };
            let written = minicbor::to_vec(&told).map_err(io::Error::other).and_then(|bytes| {
                let mut writer = File::from(rustix::fd::OwnedFd::from(writer));
                writer.write_all(&bytes)
            });
            fork::exit_now(i32::from(written.is_err()))
        }
        Forked::Parent(pid, _) => {
            drop(writer);
            let mut bytes = Vec::new();
            let read = reader.take(RESULT_BYTES_MAX).read_to_end(&mut bytes);
            let _ = fork::wait(pid, true);
            read?;
            let told: std::result::Result<T, (i32, String)> = minicbor::decode(&bytes)
                .map_err(|_| io::Error::other("A helper in the capsule's namespaces died"))?;
            told.map_err(|(errno, text)| match errno {
                0 => io::Error::other(text),
                errno => io::Error::from_raw_os_error(errno),
            })
        }
    }
}

impl Capsule {
    /// Runs `work` in the capsule's namespaces `kinds`, in a forked helper that stays outside of its pid namespace and
    /// cgroup.
    ///
    /// # Errors
    /// What `work` returned, or that the helper could not enter or died.
    pub fn inside<T>(&self, kinds: Kinds, work: impl FnOnce() -> io::Result<T>) -> io::Result<T>
    where
        T: Encode<()> + for<'b> Decode<'b, ()>,
    {
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

/// What only a process in the namespaces can read: host and domain name, System V objects, settings. By one helper,
/// because the workload is frozen meanwhile and a fork costs most of it.
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
