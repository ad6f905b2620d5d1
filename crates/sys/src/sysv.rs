//! System V shared memory, semaphores and message queues of the caller's ipc namespace.
//!
//! Identifiers are chosen by `/proc/sys/kernel/*_next_id` (kernels with CONFIG_CHECKPOINT_RESTORE), so that a program
//! finds its objects under the numbers that it remembers.
#![allow(unsafe_code)]

use std::fs;
use std::io;

/// Most objects of one kind that are listed.
const OBJECTS_MAX: usize = 32_768;

/// Identity and permissions of an object, as /proc/sysvipc tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Identifier.
    pub id: i32,
    /// Key, 0 for a private one.
    pub key: i32,
    /// Permission bits and flags.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// Segment: bytes. Semaphores: how many. Queue: messages.
    pub size: u64,
    /// Who made a segment or sent to a queue last, and who attached to or detached from the segment or received from the queue last; 0:
    /// nobody, or (semaphores, see [`semaphore_users`]) not told.
    pub users: [i32; 2],
}

/// The kinds of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Shared memory.
    Segment,
    /// Semaphores.
    Semaphores,
    /// Messages.
    Queue,
}

/// Lists all objects of a kind.
///
/// # Errors
/// When the kernel has no System V objects, or the table cannot be understood.
pub fn list(kind: Kind) -> io::Result<Vec<Object>> {
    let file = match kind {
        Kind::Segment => "shm",
        Kind::Semaphores => "sem",
        Kind::Queue => "msg",
    };
    let text = fs::read_to_string(format!("/proc/sysvipc/{file}"))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let size_name = match kind {
        Kind::Segment => "size",
        Kind::Semaphores => "nsems",
        Kind::Queue => "qnum",
    };
    let column = |name: &str| header.iter().position(|each| *each == name);
    let users = match kind {
        Kind::Segment => ["cpid", "lpid"],
        Kind::Semaphores => [""; 2],
        Kind::Queue => ["lspid", "lrpid"],
    };
    let users = users.map(column);
    let (Some(mode), Some(size), Some(uid), Some(gid)) =
        (column("perms"), column(size_name), column("uid"), column("gid"))
    else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let parse = |line: &str| -> Option<Object> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some(Object {
            key: fields.first()?.parse().ok()?,
            id: fields.get(1)?.parse().ok()?,
            mode: u32::from_str_radix(fields.get(mode)?, 8).ok()?,
            size: fields.get(size)?.parse().ok()?,
            uid: fields.get(uid)?.parse().ok()?,
            gid: fields.get(gid)?.parse().ok()?,
            users: users.map(|user| user.and_then(|at| fields.get(at)?.parse().ok()).unwrap_or(0)),
        })
    };
    lines.take(OBJECTS_MAX).map(|line| parse(line).ok_or_else(|| io::ErrorKind::InvalidData.into())).collect()
}

fn checked(result: impl Into<i64>) -> io::Result<i32> {
    match result.into() {
        -1 => Err(io::Error::last_os_error()),
        number => Ok(number as i32),
    }
}

/// Lets the next object of a kind get `id`, and checks afterwards that it did.
fn with_id(file: &str, id: i32, make: impl FnOnce() -> io::Result<i32>) -> io::Result<()> {
    fs::write(format!("/proc/sys/kernel/{file}_next_id"), id.to_string())?;
    let got = make()?;
    if got == id {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("Identifier {id} is taken")))
    }
}

/// Makes the segment that `object` describes, filled with zeros.
///
/// # Errors
/// EEXIST, ENOSPC at the limits of the namespace.
pub fn make_segment(object: &Object) -> io::Result<()> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | (object.mode & 0o777) as i32;
    let size = usize::try_from(object.size).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: shmget takes numbers only.
    with_id("shm", object.id, || checked(unsafe { libc::shmget(object.key, size, flags) }))?;
    // SAFETY: shmid_ds is plain data, outlives both calls, and IPC_STAT fills it before IPC_SET reads it.
    unsafe {
        let mut state: libc::shmid_ds = std::mem::zeroed();
        checked(libc::shmctl(object.id, libc::IPC_STAT, &raw mut state))?;
        state.shm_perm.uid = object.uid;
        state.shm_perm.gid = object.gid;
        checked(libc::shmctl(object.id, libc::IPC_SET, &raw mut state))?;
    }
    Ok(())
}

/// Marks a segment for removal: it goes when the last task detaches.
///
/// # Errors
/// EINVAL when there is none.
pub fn remove_segment(id: i32) -> io::Result<()> {
    // SAFETY: IPC_RMID takes no pointer.
    checked(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

/// A segment attached to this process.
#[derive(Debug)]
pub struct Attached {
    address: *mut libc::c_void,
    size: usize,
}

impl Attached {
    /// Attaches segment `id` of `size` bytes.
    ///
    /// # Errors
    /// EINVAL when there is none, or it is smaller.
    pub fn new(id: i32, size: u64) -> io::Result<Self> {
        let size = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: shmid_ds is plain data that the call fills.
        let real = unsafe {
            let mut state: libc::shmid_ds = std::mem::zeroed();
            checked(libc::shmctl(id, libc::IPC_STAT, &raw mut state))?;
            state.shm_segsz
        };
        if size > real {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the kernel chooses a free address.
        let address = unsafe { libc::shmat(id, std::ptr::null(), 0) };
        if address as isize == -1 { Err(io::Error::last_os_error()) } else { Ok(Self { address, size }) }
    }

    /// Copies from the segment. Tasks that write to it meanwhile are the caller's concern: they are frozen.
    ///
    /// # Errors
    /// When the range is not in the segment.
    pub fn read(&self, offset: usize, buffer: &mut [u8]) -> io::Result<()> {
        let from = self.at(offset, buffer.len())?;
        // SAFETY: `at` has checked the range; the two do not overlap, and bytes have no invalid values.
        unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) };
        Ok(())
    }

    /// Copies into the segment.
    ///
    /// # Errors
    /// When the range is not in the segment.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let to = self.at(offset, bytes.len())?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn at(&self, offset: usize, length: usize) -> io::Result<*mut u8> {
        match offset.checked_add(length) {
            // SAFETY: within the mapping, as just checked.
            Some(end) if end <= self.size => Ok(unsafe { self.address.cast::<u8>().add(offset) }),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: it was attached at this address and nothing borrows from it.
        unsafe { libc::shmdt(self.address) };
    }
}

/// Values of a set of `count` semaphores.
///
/// # Errors
/// EINVAL when there is none.
pub fn semaphore_values(id: i32, count: u64) -> io::Result<Vec<u16>> {
    let count = usize::try_from(count).map_err(|_| io::ErrorKind::InvalidInput)?;
    // One more than asked for: the set cannot have grown, and a wrong count is found by SEMMSL, 32,000 by default.
    let mut values = vec![0u16; count.max(1 << 16)];
    // SAFETY: GETALL writes one value for each semaphore, at most SEMMSL (65,536).
    checked(unsafe { libc::semctl(id, 0, libc::GETALL, values.as_mut_ptr()) })?;
    values.truncate(count);
    Ok(values)
}

/// For each of `count` semaphores of a set who changed it or waited for it last, as a process id of the caller's namespace; 0: nobody, or
/// somebody who is not in it.
///
/// # Errors
/// EINVAL when there is none.
pub fn semaphore_users(id: i32, count: u64) -> io::Result<Vec<i32>> {
    let count = i32::try_from(count.min(1 << 16)).unwrap_or(0);
    // SAFETY: GETPID takes no pointer.
    (0..count).map(|at| checked(unsafe { libc::semctl(id, at, libc::GETPID) })).collect()
}

/// Makes the set that `object` describes, with these values.
///
/// # Errors
/// EEXIST, ENOSPC at the limits of the namespace.
pub fn make_semaphores(object: &Object, values: &[u16]) -> io::Result<()> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | (object.mode & 0o777) as i32;
    let count = i32::try_from(values.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: semget takes numbers only.
    with_id("sem", object.id, || checked(unsafe { libc::semget(object.key, count, flags) }))?;
    // SAFETY: SETALL reads one value for each semaphore, which are as many; semid_ds is plain data, filled before read.
    unsafe {
        checked(libc::semctl(object.id, 0, libc::SETALL, values.as_ptr()))?;
        let mut state: libc::semid_ds = std::mem::zeroed();
        checked(libc::semctl(object.id, 0, libc::IPC_STAT, &raw mut state))?;
        state.sem_perm.uid = object.uid;
        state.sem_perm.gid = object.gid;
        checked(libc::semctl(object.id, 0, libc::IPC_SET, &raw const state))?;
    }
    Ok(())
}

/// A message: its type and content.
pub type Message = (i64, Vec<u8>);

/// The most bytes that a queue may hold, and a copy of all its messages, oldest first.
///
/// # Errors
/// EINVAL when there is none, ENOSYS on a kernel without CONFIG_CHECKPOINT_RESTORE.
pub fn messages(id: i32, bytes_max: usize) -> io::Result<(u64, Vec<Message>)> {
    const MSG_COPY: i32 = 0o40000;
    // SAFETY: msqid_ds is plain data that the call fills.
    let state = unsafe {
        let mut state: libc::msqid_ds = std::mem::zeroed();
        checked(libc::msgctl(id, libc::IPC_STAT, &raw mut state))?;
        state
    };
    let mut buffer = vec![0u8; bytes_max + size_of::<i64>()];
    let mut found = Vec::new();
    for index in 0..state.msg_qnum as i64 {
        // SAFETY: the kernel writes the type and at most `bytes_max` bytes.
        let length = unsafe {
            libc::msgrcv(id, buffer.as_mut_ptr().cast(), bytes_max, index, MSG_COPY | libc::IPC_NOWAIT)
        };
        let length = checked(length as i64)? as usize;
        let kind = i64::from_ne_bytes(buffer[..8].try_into().unwrap_or_default());
        found.push((kind, buffer[8..8 + length].to_vec()));
    }
    Ok((state.msg_qbytes, found))
}

/// Makes the queue that `object` describes, with these messages in it.
///
/// # Errors
/// EEXIST, ENOSPC at the limits of the namespace, EAGAIN when they do not fit.
pub fn make_queue(object: &Object, bytes_max: u64, messages: &[Message]) -> io::Result<()> {
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | (object.mode & 0o777) as i32;
    // SAFETY: msgget takes numbers only.
    with_id("msg", object.id, || checked(unsafe { libc::msgget(object.key, flags) }))?;
    // SAFETY: msqid_ds is plain data, filled before it is read.
    unsafe {
        let mut state: libc::msqid_ds = std::mem::zeroed();
        checked(libc::msgctl(object.id, libc::IPC_STAT, &raw mut state))?;
        state.msg_perm.uid = object.uid;
        state.msg_perm.gid = object.gid;
        state.msg_qbytes = bytes_max;
        checked(libc::msgctl(object.id, libc::IPC_SET, &raw mut state))?;
    }
    for (kind, bytes) in messages {
        let mut message = kind.to_ne_bytes().to_vec();
        message.extend_from_slice(bytes);
        // SAFETY: the message is its type and as many bytes as said.
        checked(unsafe { libc::msgsnd(object.id, message.as_ptr().cast(), bytes.len(), libc::IPC_NOWAIT) })?;
    }
    Ok(())
}
