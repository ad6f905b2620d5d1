//! What this host has of the resources that a plan asks about.
//!
//! It answers about names, never with content, and only to members of the fleet. Whatever it cannot find out is "absent", so that
//! the plan copies or refuses rather than binds to something unknown.

use super::{FileHashes, shared_identity};
use ferry_model::facts::{Found, Holding};
use ferry_model::plan::Resource;
use ferry_model::resource::Binding;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Most resources that one question may name: what a process table of thousands of descriptors comes to, with room.
const QUESTIONS_MAX: usize = 200_000;

/// Where to look.
pub struct Place<'a> {
    /// The host's root, as workloads will see it under their overlay.
    pub root: &'a Path,
    /// Remembered hashes.
    pub hashes: &'a FileHashes,
    /// Addresses (`ADDR/LEN`) that workloads of this host have.
    pub addresses: &'a [String],
}

/// Answers for every resource about which a target's view matters. Resources about which it does not are left out.
#[must_use]
pub fn answer(questions: &[Resource], place: &Place<'_>) -> Vec<Holding> {
    questions.iter().take(QUESTIONS_MAX).filter_map(|resource| one(resource, place)).collect()
}

fn one(resource: &Resource, place: &Place<'_>) -> Option<Holding> {
    let mut shared = None;
    let found = match resource.sort.as_str() {
        "address" => taken(place.addresses.contains(&resource.name)),
        "listener" | "tcp-listener" => port(&resource.name, |at| TcpListener::bind(at).map(drop))?,
        "udp" | "udp-socket" => port(&resource.name, |at| UdpSocket::bind(at).map(drop))?,
        _ if resource.name.starts_with('/') => {
            let path = beneath(place.root, &resource.name);
            shared = resource.shared.is_some().then(|| shared_identity(&path)).flatten();
            file(resource, &path, place.hashes)
        }
        _ => return None,
    };
    Some(Holding { sort: resource.sort.clone(), name: resource.name.clone(), found, shared })
}

fn taken(taken: bool) -> Found {
    if taken { Found::Different } else { Found::Same }
}

/// A port of the host's own addresses is free if it can be bound now. What is bound to an address that this host does not have
/// cannot be.
fn port(name: &str, bind: impl Fn(SocketAddr) -> std::io::Result<()>) -> Option<Found> {
    let at: SocketAddr = name.parse().ok()?;
    Some(taken(bind(at).is_err()))
}

fn beneath(root: &Path, name: &str) -> PathBuf {
    root.join(name.trim_start_matches('/'))
}

fn file(resource: &Resource, path: &Path, hashes: &FileHashes) -> Found {
    let Ok(meta) = std::fs::metadata(path) else { return Found::Absent };
    let kind = meta.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        // Devices are bound by type: one under the same name serves.
        return Found::Same;
    }
    // Bound by type: whatever is of that type serves.
    if resource.binding == Binding::Type
        && ((resource.sort == "directory" && kind.is_dir()) || (resource.sort == "file" && kind.is_file()))
    {
        return Found::Same;
    }
    let Some(wanted) = resource.hash else {
        return if kind.is_file() || kind.is_dir() { Found::Different } else { Found::Absent };
    };
    if !kind.is_file() || meta.size() != resource.bytes {
        return Found::Different;
    }
    // Never follow into something that blocks on open: it was a regular file a moment ago, and may be a FIFO now.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let opened = File::options().read(true).custom_flags(nonblocking).open(path);
    match opened.and_then(|file| hashes.of(&file)) {
        Ok(hash) if hash == wanted => Found::Same,
        _ => Found::Different,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_model::ids::Hash;
    use ferry_model::resource::Attachment;

    fn resource(sort: &str, name: &str) -> Resource {
        Resource {
            sort: sort.into(),
            name: name.into(),
            holder: None,
            binding: Binding::Value,
            attachment: Attachment::Unattached,
            bytes: 0,
            hash: None,
            unsupported: None,
            shared: None,
        }
    }

    fn ask(resource: Resource, root: &Path) -> Option<Found> {
        let place = Place { root, hashes: &FileHashes::default(), addresses: &["10.7.0.2/24".into()] };
        answer(&[resource], &place).pop().map(|holding| holding.found)
    }

    #[test]
    fn files_are_compared_by_content() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lib")).unwrap();
        std::fs::write(dir.path().join("lib/a.so"), b"code").unwrap();
        let library = |content: &[u8]| Resource {
            hash: Some(Hash::of(content)),
            bytes: content.len() as u64,
            ..resource("library", "/lib/a.so")
        };
        assert_eq!(ask(library(b"code"), dir.path()), Some(Found::Same));
        assert_eq!(ask(library(b"edoc"), dir.path()), Some(Found::Different));
        assert_eq!(ask(library(b"longer"), dir.path()), Some(Found::Different));
        let absent = Resource { name: "/lib/b.so".into(), ..library(b"code") };
        assert_eq!(ask(absent, dir.path()), Some(Found::Absent));
    }

    #[test]
    fn devices_are_there_or_not() {
        assert_eq!(ask(resource("device", "/dev/null"), Path::new("/")), Some(Found::Same));
        assert_eq!(ask(resource("device", "/dev/no-such"), Path::new("/")), Some(Found::Absent));
    }

    #[test]
    fn a_port_and_an_address_that_are_taken_are_different() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = listener.local_addr().unwrap().to_string();
        assert_eq!(ask(resource("listener", &name), Path::new("/")), Some(Found::Different));
        drop(listener);
        assert_eq!(ask(resource("listener", &name), Path::new("/")), Some(Found::Same));
        assert_eq!(ask(resource("address", "10.7.0.2/24"), Path::new("/")), Some(Found::Different));
        assert_eq!(ask(resource("address", "10.7.0.3/24"), Path::new("/")), Some(Found::Same));
    }

    #[test]
    fn nothing_is_said_about_what_is_made_anew() {
        assert_eq!(ask(resource("pipe", "pipe:[1]"), Path::new("/")), None);
        assert_eq!(ask(resource("memory", "[heap]"), Path::new("/")), None);
    }
}
