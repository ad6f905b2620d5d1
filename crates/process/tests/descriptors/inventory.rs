//! The inventory that a plan is made from.

use crate::holder::{Holder, number};
use ferry_model::resource::{Attachment, Binding};
use ferry_process::capture::files::FilesContext;
use rustix::fs::{Mode, OFlags};
use std::net::TcpListener;

#[test]
fn resources_with_binding_attachment_and_holder() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    std::fs::write(&path, [1; 1000]).unwrap();
    let file = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fd = number(&file);
    let holder = Holder::with(vec![file, listener.into()]);
    let found = ferry_process::inspect::files::files(&[holder.task], &FilesContext::default()).unwrap();
    let of = |sort: &str| found.iter().find(|resource| resource.sort == sort).unwrap();
    let file = of("file");
    assert_eq!((file.name.as_str(), file.bytes), (path.to_str().unwrap(), 1000));
    assert_eq!((file.binding, file.attachment), (Binding::Identifier, Attachment::Unattached));
    assert_eq!(file.holder.unwrap().fd, Some(fd));
    let device = of("device");
    assert_eq!((device.name.as_str(), device.binding), ("/dev/null", Binding::Type));
    // An address of the host itself cannot move.
    let listener = of("listener");
    assert_eq!((listener.name.as_str(), listener.attachment), (address.as_str(), Attachment::Fixed));
}

#[test]
fn what_cannot_move_is_named_with_pid_and_descriptor() {
    let network = ferry_sys::sockaddr::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).unwrap();
    let device = std::fs::File::open("/dev/kmsg").unwrap();
    let namespace = std::fs::File::open("/proc/self/ns/net").unwrap();
    let numbers = [number(&network), number(&device), number(&namespace)];
    let holder = Holder::with(vec![network, device.into(), namespace.into()]);
    let found = ferry_process::inspect::files::files(&[holder.task], &FilesContext::default()).unwrap();
    for (fd, what) in numbers.iter().zip(["packet socket", "/dev/kmsg", "namespace"]) {
        let blocker = found
            .iter()
            .filter_map(|resource| resource.unsupported.as_ref())
            .find(|blocker| blocker.what.contains(what))
            .unwrap_or_else(|| panic!("{what} is not refused: {found:?}"));
        assert!(
            blocker.what.contains(&format!("pid {}, descriptor {fd}", holder.task.ns_pid)),
            "{blocker:?}"
        );
        assert!(!blocker.lifted_by.is_empty());
    }
}
