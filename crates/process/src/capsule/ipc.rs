//! System V objects of a capsule: shared memory, semaphores, message queues.
//!
//! Identifiers, keys, owners and contents are kept. What the kernel does not tell (undo lists of semaphores, the ids of
//! who used an object last) is not.

use super::error::{Doing, Error, Result};
use super::namespace::Kinds;
use super::{Capsule, tree};
use crate::records::capsule::{Ipc, IpcPermissions, Message, Queue, Segment, Semaphores};
use ferry_sys::sysv::{self, Attached, Kind, Object};
use std::io::{self, Read, Write};

/// Flag of a segment that goes when the last task detaches (SHM_DEST).
const REMOVED: u32 = 0o1000;
/// Most bytes of one message that are read: the largest value of msgmax in use.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Most objects of one kind.
const OBJECTS_MAX: usize = 32_768;
const BUFFER_BYTES: usize = 1 << 20;

/// Describes all objects of the capsule.
pub(super) fn capture(capsule: &Capsule) -> Result<Ipc> {
    capsule
        .inside(Kinds::INTER_PROCESS_COMMUNICATION, describe)
        .doing(|| "describe the System V objects of the capsule".into())
}

/// Describes all objects of the ipc namespace of this process.
pub(super) fn describe() -> io::Result<Ipc> {
    let list = |kind| match sysv::list(kind) {
        // A kernel without System V objects.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    };
    let segments = list(Kind::Segment)?
        .iter()
        .map(|object| Segment {
            permissions: permissions(object),
            size: object.size,
            removed: object.mode & REMOVED != 0,
        })
        .collect();
    let mut semaphores = Vec::new();
    for object in list(Kind::Semaphores)? {
        semaphores.push(Semaphores {
            permissions: permissions(&object),
            values: sysv::semaphore_values(object.id, object.size)?,
        });
    }
    let mut queues = Vec::new();
    for object in list(Kind::Queue)? {
        let (bytes_max, messages) = sysv::messages(object.id, MESSAGE_BYTES_MAX)?;
        let messages = messages.into_iter().map(|(kind, bytes)| Message { kind, bytes }).collect();
        queues.push(Queue { permissions: permissions(&object), bytes_max, messages });
    }
    Ok(Ipc { segments, semaphores, queues })
}

fn permissions(object: &Object) -> IpcPermissions {
    IpcPermissions {
        id: object.id,
        key: object.key,
        uid: object.uid,
        gid: object.gid,
        mode: object.mode & 0o777,
    }
}

fn object(permissions: &IpcPermissions, size: u64) -> Object {
    let IpcPermissions { id, key, uid, gid, mode } = *permissions;
    Object { id, key, mode, uid, gid, size, users: [0; 2] }
}

/// Makes all objects that `ipc` describes; segments are filled by [`unpack`].
pub(super) fn restore(capsule: &Capsule, ipc: &Ipc) -> Result<()> {
    if [ipc.segments.len(), ipc.semaphores.len(), ipc.queues.len()].iter().any(|count| *count > OBJECTS_MAX) {
        return Err(Error::Invalid(format!(
            "More than {OBJECTS_MAX} System V objects of one kind are described"
        )));
    }
    if ipc == &Ipc::default() {
        return Ok(());
    }
    capsule
        .inside(Kinds::INTER_PROCESS_COMMUNICATION, || {
            for segment in &ipc.segments {
                sysv::make_segment(&object(&segment.permissions, segment.size))?;
            }
            for set in &ipc.semaphores {
                sysv::make_semaphores(&object(&set.permissions, 0), &set.values)?;
            }
            for queue in &ipc.queues {
                let messages: Vec<_> =
                    queue.messages.iter().map(|message| (message.kind, message.bytes.clone())).collect();
                sysv::make_queue(&object(&queue.permissions, 0), queue.bytes_max, &messages)?;
            }
            Ok(())
        })
        .doing(|| "make the System V objects of the capsule".into())
}

/// Writes the contents of all segments, in the order of `ipc`, as one tree with a file for each: runs of zeros are
/// holes, and every content has its hash.
pub(super) fn pack(capsule: &Capsule, ipc: &Ipc, out: &mut dyn Write) -> Result<tree::Totals> {
    let staging = staging(capsule)?;
    capsule
        .inside(Kinds::INTER_PROCESS_COMMUNICATION, || {
            for segment in &ipc.segments {
                let attached = Attached::new(segment.permissions.id, segment.size)?;
                let file = std::fs::File::create(staging.path().join(segment.permissions.id.to_string()))?;
                file.set_len(segment.size)?;
                copy(segment.size, |offset, buffer| {
                    attached.read(offset, buffer)?;
                    if buffer.iter().any(|byte| *byte != 0) {
                        write_at(&file, offset, buffer)
                    } else {
                        Ok(())
                    }
                })?;
            }
            Ok(())
        })
        .doing(|| "read the shared memory segments of the capsule".into())?;
    let directory = std::fs::File::open(staging.path()).doing(|| "open a directory".into())?;
    Ok(tree::pack(&directory, out, &tree::Limits::default())?)
}

/// Fills the segments that [`restore`] made with what [`pack`] wrote.
pub(super) fn unpack(capsule: &Capsule, ipc: &Ipc, input: &mut dyn Read) -> Result<()> {
    let staging = staging(capsule)?;
    let directory = std::fs::File::open(staging.path()).doing(|| "open a directory".into())?;
    tree::unpack(&directory, input, &tree::Limits::default())?;
    capsule
        .inside(Kinds::INTER_PROCESS_COMMUNICATION, || {
            for segment in &ipc.segments {
                let attached = Attached::new(segment.permissions.id, segment.size)?;
                let file = std::fs::File::open(staging.path().join(segment.permissions.id.to_string()))?;
                copy(segment.size, |offset, buffer| {
                    use std::os::unix::fs::FileExt;
                    file.read_exact_at(buffer, offset as u64)?;
                    if buffer.iter().any(|byte| *byte != 0) { attached.write(offset, buffer) } else { Ok(()) }
                })?;
            }
            Ok(())
        })
        .doing(|| "fill the shared memory segments of the capsule".into())
}

fn write_at(file: &std::fs::File, offset: usize, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    file.write_all_at(bytes, offset as u64)
}

fn copy(size: u64, mut part: impl FnMut(usize, &mut [u8]) -> io::Result<()>) -> io::Result<()> {
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut buffer = vec![0; BUFFER_BYTES.min(size)];
    for offset in (0..size).step_by(BUFFER_BYTES) {
        let length = BUFFER_BYTES.min(size - offset);
        part(offset, &mut buffer[..length])?;
    }
    Ok(())
}

/// A directory beneath the workload's own, removed at the end.
fn staging(capsule: &Capsule) -> Result<Staging> {
    let path = capsule.directory().join(format!("segments-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).doing(|| format!("make {}", path.display()))?;
    Ok(Staging(path))
}

struct Staging(std::path::PathBuf);

impl Staging {
    fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
