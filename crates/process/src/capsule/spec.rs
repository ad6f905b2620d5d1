//! What a capsule shall be, and what shall run in it.

use crate::records;
pub use crate::records::capsule::{Clocks, Limits, With};
use rustix::fd::OwnedFd;
use std::ffi::OsString;
use std::path::PathBuf;

/// Description of a capsule to make.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Name of its cgroup, unique on this host: the workload's id as text.
    pub name: String,
    /// The workload's own directory, on a file system that can be an overlay's upper layer (a disk, a tmpfs; not an
    /// overlay). What the workload writes ends up in `upper` beneath it; for a restored one, `upper` is filled before.
    pub directory: PathBuf,
    /// Host directories that the workload must not see: Ferry's own state.
    pub hidden: Vec<PathBuf>,
    /// Host name inside.
    pub hostname: String,
    /// NIS domain name inside; empty: the host's.
    pub domainname: String,
    /// Whether it has a network namespace of its own. Without, it uses the host's.
    pub own_network: bool,
    /// Host paths that it sees.
    pub with: Vec<With>,
    /// What it may use.
    pub limits: Limits,
    /// What its clocks shall show at its creation; `None`: what the host's show.
    pub clocks: Option<Clocks>,
    /// Mounts that the workload had made on the host where it was captured.
    pub mounts: Vec<records::capsule::Mount>,
    /// Ends the capsule with the process that made it. For tests; the shim's death must not end a workload.
    pub end_with_creator: bool,
}

impl Spec {
    /// The capsule that `record` describes, made again here. Contents follow by `Capsule::restore_contents`.
    #[must_use]
    pub fn restored(record: &records::capsule::Capsule, name: String, directory: PathBuf) -> Self {
        Self {
            name,
            directory,
            hostname: record.hostname.clone(),
            domainname: record.domainname.clone(),
            own_network: record.own_network,
            with: record.with.clone(),
            limits: record.limits,
            clocks: Some(record.clocks),
            mounts: record.mounts.clone(),
            ..Self::default()
        }
    }
}

/// A program to start in a capsule.
#[derive(Debug, Default)]
pub struct Command {
    /// Program and arguments. A program without `/` is looked for in PATH of `env`, inside.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory, inside; `None` is `/`.
    pub cwd: Option<PathBuf>,
    /// Who it runs as; `None` is root.
    pub user: Option<User>,
    /// Standard input, output and error; fewer than three: the rest is /dev/null.
    pub stdio: Vec<OwnedFd>,
    /// Whether standard input is a terminal that becomes its controlling one.
    pub controlling_tty: bool,
    /// Resource limits to set: `RLIMIT_*`, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
}

/// Credentials of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl User {
    /// Looks up `text`: `uid`, `uid:gid`, `name` or `name:group` in this host's /etc/passwd and /etc/group.
    #[must_use]
    pub fn look_up(text: &str) -> Option<Self> {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
        look_up_in(text, &passwd, &group)
    }
}

fn look_up_in(text: &str, passwd: &str, group: &str) -> Option<User> {
    let (user, wanted_group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let entries =
        || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|entry| entry.len() >= 4);
    let entry = entries().find(|entry| entry[0] == user || entry[2] == user);
    let uid = match &entry {
        Some(entry) => entry[2].parse().ok()?,
        None => user.parse().ok()?,
    };
    let groups =
        || group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|entry| entry.len() >= 4);
    let gid = match (wanted_group, &entry) {
        (Some(wanted), _) => match groups().find(|entry| entry[0] == wanted || entry[2] == wanted) {
            Some(entry) => entry[2].parse().ok()?,
            None => wanted.parse().ok()?,
        },
        (None, Some(entry)) => entry[3].parse().ok()?,
        (None, None) => uid,
    };
    let member = |entry: &Vec<&str>, name: &str| entry[3].split(',').any(|each| each == name);
    let name = entry.map(|entry| entry[0]);
    let supplementary = groups()
        .filter(|entry| name.is_some_and(|name| member(entry, name)))
        .filter_map(|entry| entry[2].parse().ok())
        .collect();
    Some(User { uid, gid, groups: supplementary })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nanna:x:1000:1000::/home/anna:/bin/sh\n";
        let group = "root:x:0:\nwheel:x:10:anna,ben\nanna:x:1000:\n";
        let look = |text| look_up_in(text, passwd, group);
        assert_eq!(look("anna"), Some(User { uid: 1000, gid: 1000, groups: vec![10] }));
        assert_eq!(look("1000"), look("anna"));
        assert_eq!(look("anna:wheel"), Some(User { uid: 1000, gid: 10, groups: vec![10] }));
        assert_eq!(look("4711:12"), Some(User { uid: 4711, gid: 12, groups: vec![] }));
        assert_eq!(look("nobody"), None);
        assert_eq!(look("anna:nogroup"), None);
    }
}
