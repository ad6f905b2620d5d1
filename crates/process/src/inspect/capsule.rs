//! What belongs to the capsule rather than to one task: what was written to its root, memory file systems, mounts,
//! System V objects, limits; and what stands in the way, by name.

use crate::capsule::{Capsule, Error};
use ferry_model::plan::{Blocker, Holder, Resource};
use ferry_model::resource::{Attachment, Binding};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// From this size on, a tree moves only at a price, bytes.
const FASTENED_BYTES_MIN: u64 = 64 << 20;
/// Most files that are counted of one tree: beyond, what was found so far is the estimate.
const FILES_MAX: usize = 1_000_000;
/// Namespaces that a task may not have of its own: nested ones are not rebuilt.
const NAMESPACES: [&str; 8] = ["mnt", "net", "ipc", "uts", "pid", "time", "user", "cgroup"];

/// Everything about the capsule itself. To be called by a process with one thread.
///
/// # Errors
/// When the capsule is gone.
pub fn capsule(capsule: &Capsule) -> Result<Vec<Resource>, Error> {
    let mut found = Vec::new();
    let written = tree_bytes(&capsule.upper());
    found.push(resource("root-file-system", "what the workload wrote to its root", written));
    let (mounts, tmpfs, blockers) = capsule.mount_table()?;
    for point in tmpfs {
        let bytes = capsule.file_system_bytes(&point).unwrap_or(0);
        found.push(resource(
            "memory-file-system",
            &format!("memory file system at {}", point.display()),
            bytes,
        ));
    }
    for mount in mounts.iter().filter(|mount| mount.kind != "tmpfs") {
        found.push(resource("mount", &format!("{} mounted at {}", mount.kind, mount.point), 0));
    }
    let objects = capsule.system_v()?;
    for segment in &objects.segments {
        let name = format!("System V segment {}", segment.permissions.id);
        found.push(resource("shared-memory-segment", &name, segment.size));
    }
    for set in &objects.semaphores {
        let name = format!("System V semaphores {}", set.permissions.id);
        found.push(resource("semaphores", &name, 2 * set.values.len() as u64));
    }
    for queue in &objects.queues {
        let bytes = queue.messages.iter().map(|message| message.bytes.len() as u64).sum();
        found.push(resource("message-queue", &format!("System V queue {}", queue.permissions.id), bytes));
    }
    let limits = capsule.limits();
    if let Some(bytes) = limits.memory_bytes {
        found.push(by_type("limit", &format!("memory: {bytes} bytes")));
    }
    if let Some(millis) = limits.cpu_millis {
        found.push(by_type("limit", &format!("processor: {millis} thousandths")));
    }
    found.extend(blockers.into_iter().map(|error| refused("mount", None, error)));
    found.extend(capsule.inspect_queues().into_iter().map(|error| refused("message-queue", None, error)));
    found.extend(of_tasks(capsule)?);
    Ok(found)
}

/// How tightly a tree of that many bytes is attached to its host.
pub(super) fn attachment_of(bytes: u64) -> Attachment {
    if bytes < FASTENED_BYTES_MIN { Attachment::Unattached } else { Attachment::Fastened }
}

fn resource(sort: &str, name: &str, bytes: u64) -> Resource {
    Resource {
        sort: sort.into(),
        name: name.into(),
        holder: None,
        binding: Binding::Identifier,
        attachment: attachment_of(bytes),
        bytes,
        hash: None,
        unsupported: None,
        shared: None,
    }
}

fn by_type(sort: &str, name: &str) -> Resource {
    Resource { binding: Binding::Type, ..resource(sort, name, 0) }
}

fn refused(sort: &str, pid: Option<i32>, error: Error) -> Resource {
    let what = error.to_string();
    let lifted_by = match error {
        Error::Refused { lifted_by, .. } => lifted_by,
        _ => "see the message".into(),
    };
    Resource {
        holder: pid.map(|pid| Holder { pid, fd: None }),
        unsupported: Some(Blocker { what: what.clone(), lifted_by }),
        ..resource(sort, &what, 0)
    }
}

/// Bytes that a tree holds on its file system. Nothing is followed out of it.
pub(super) fn tree_bytes(root: &Path) -> u64 {
    let mut bytes = 0;
    let mut count = 0;
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        count += 1;
        if metadata.is_file() {
            bytes += metadata.blocks() * 512;
        }
        if metadata.is_dir() && count < FILES_MAX {
            waiting.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    bytes
}

/// What single tasks have that reaches beyond the capsule as it is rebuilt: namespaces of their own, attached segments.
fn of_tasks(capsule: &Capsule) -> Result<Vec<Resource>, Error> {
    let identity = |pid: i32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let own: Vec<_> = NAMESPACES.iter().map(|kind| identity(capsule.init_pid(), kind)).collect();
    let pids = capsule
        .cgroup()
        .procs()
        .map_err(|source| Error::Kernel { doing: "list the tasks".into(), source })?;
    let mut found = Vec::new();
    for pid in pids {
        let inner = crate::capsule::inner_pid(pid).unwrap_or(0);
        let mut refuse = |sort: &str, what: String, lifted_by: &str| {
            let error = Error::Refused { what, lifted_by: lifted_by.into() };
            found.push(refused(sort, Some(inner), error));
        };
        for (kind, own) in NAMESPACES.iter().zip(&own) {
            let theirs = identity(pid, kind);
            if theirs.is_some() && &theirs != own {
                let what = format!("Process {inner} has a {kind} namespace of its own");
                refuse("namespace", what, "let it run without, or end it");
            }
        }
        let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        if maps.split(|byte| *byte == b'\n').any(|line| line.windows(6).any(|part| part == b" /SYSV")) {
            let what = format!("Process {inner} has a System V segment attached");
            refuse("shared-memory-segment", what, "let it detach, or use POSIX shared memory (/dev/shm)");
        }
    }
    Ok(found)
}
