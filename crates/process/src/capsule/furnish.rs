//! The inside of a capsule, made when its ground is there: root, mounts, host name.
//!
//! Cgroups, namespaces and init are the ground. They take most of the time and need only what is known long before a move's
//! freeze; what the inside shall be like is known when the workload has been captured, and its files must all be in the upper
//! directory before an overlay is laid over that. So init waits in between: one request on its line, with a description and a pipe
//! for the outcome.

use super::error::{Doing, Error, Result};
use super::spec::Spec;
use super::{Capsule, create, init};
use crate::records::capsule::{Mount, With};
use ferry_sys::scm;
use minicbor::{Decode, Encode};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags};
use rustix::net::RecvFlags;
use std::fs::File;
use std::io::{self, Read, Seek, Write};

/// The request.
pub(super) const FURNISH: u8 = 16;
/// Longest description: a thousand mounts with long paths.
const BYTES_MAX: u64 = 16 << 20;

/// What the inside shall be like. The rest of the [`Spec`] init has known from the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
struct Furniture {
    #[n(0)]
    hostname: String,
    #[n(1)]
    domainname: String,
    #[n(2)]
    with: Vec<With>,
    #[n(3)]
    mounts: Vec<Mount>,
}

impl Capsule {
    /// Makes a capsule that has no inside yet: cgroups, namespaces, clocks, init. [`Self::furnish`] must follow before anything else
    /// is done with it. To be called by a process with one thread.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn ground(spec: &Spec) -> Result<Self> {
        create::ground(spec)
    }

    /// Gives it its inside, once: host name, `--with` paths and mounts of `spec`.
    ///
    /// # Errors
    /// What this host lacks, by name. Then the capsule is to be destroyed.
    pub fn furnish(&mut self, spec: &Spec) -> Result<()> {
        create::check_with(spec)?;
        let furniture = Furniture {
            hostname: spec.hostname.clone(),
            domainname: spec.domainname.clone(),
            with: spec.with.clone(),
            mounts: spec.mounts.clone(),
        };
        let bytes = minicbor::to_vec(&furniture).map_err(|error| Error::Invalid(error.to_string()))?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(Error::Invalid(
                "The capsule's mounts are more than fit into their description".into(),
            ));
        }
        let memory = rustix::fs::memfd_create("ferry-furniture", MemfdFlags::CLOEXEC);
        let mut memory = File::from(memory.doing(|| "make a memory file".into())?);
        memory.write_all(&bytes).doing(|| "write to a memory file".into())?;
        let (reader, writer) = io::pipe().doing(|| "make a pipe".into())?;
        scm::send(&self.line, &[FURNISH], &[memory.as_fd(), writer.as_fd()])
            .doing(|| "reach the capsule's init".into())?;
        drop(writer);
        create::hear(reader)?;
        let path = format!("/proc/{}/root", self.note.init);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.root =
            rustix::fs::openat(CWD, path, flags, Mode::empty()).doing(|| "open the capsule's root".into())?;
        self.note.furnished(spec)?;
        self.note.write(&self.directory)
    }

    /// Lets its root see files that were put into the upper directory after [`Self::furnish`]. Those that somebody has open or mapped
    /// already stay what they were.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn look_again(&self) -> Result<()> {
        ferry_sys::mounts::forget_names(self.root.as_fd()).doing(|| "look at the capsule's root again".into())
    }
}

/// In init: waits for the request and does it. Returns the line on which it came.
pub(super) fn wait(spec: &Spec, listening: &OwnedFd, signals: &OwnedFd) -> Option<OwnedFd> {
    loop {
        let _ = poll(&mut [PollFd::new(listening, PollFlags::IN)], None);
        let Some(line) = init::accept(listening) else { continue };
        let mut request = [0; 8];
        let Ok((length, descriptors)) = scm::receive(&line, &mut request, RecvFlags::empty()) else {
            continue;
        };
        let mut descriptors = descriptors.into_iter();
        let (true, Some(furniture), Some(report)) =
            (request[..length] == [FURNISH], descriptors.next(), descriptors.next())
        else {
            continue;
        };
        let mut report = File::from(report);
        let made = read(furniture).and_then(|furniture| {
            let Furniture { hostname, domainname, with, mounts } = furniture;
            let spec = Spec { hostname, domainname, with, mounts, ..spec.clone() };
            let kept = [listening.as_fd(), line.as_fd(), signals.as_fd(), report.as_fd()];
            init::build_inside(&spec, &kept)
        });
        return match made {
            Ok(()) => {
                let _ = report.write_all(&[0]);
                Some(line)
            }
            Err(error) => {
                init::tell(&mut report, error);
                None
            }
        };
    }
}

fn read(memory: OwnedFd) -> Result<Furniture> {
    let mut memory = File::from(memory);
    let mut bytes = Vec::new();
    let all = memory.rewind().and_then(|()| memory.take(BYTES_MAX).read_to_end(&mut bytes).map(drop));
    all.doing(|| "read what the capsule shall be like".into())?;
    minicbor::decode(&bytes).map_err(|error| Error::Invalid(error.to_string()))
}
