//! Unix sockets: pairs, names, queues, ends that are gone.

use crate::holder::{Holder, number, read};
use ferry_process::capture::files::Error;
use ferry_sys::sockaddr::{self, pair, peek};
use rustix::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

#[test]
fn a_stream_pair_keeps_both_queues() {
    let (a, b) = pair(libc::SOCK_STREAM).unwrap();
    sockaddr::send(&a, b"from a", None).unwrap();
    sockaddr::send(&a, b" twice", None).unwrap();
    sockaddr::send(&b, &[7; 50_000], None).unwrap();
    let (x, y) = (number(&a), number(&b));
    let holder = Holder::with(vec![a, b]);
    holder.capture().unwrap();
    let moved = holder.move_here();
    assert_eq!(read(moved.fd(y), 100), b"from a twice");
    let mut back = Vec::new();
    while back.len() < 50_000 {
        back.extend(read(moved.fd(x), 1 << 16));
    }
    assert_eq!(back, [7; 50_000]);
    sockaddr::send(moved.fd(y), b"on and on", None).unwrap();
    assert_eq!(read(moved.fd(x), 100), b"on and on");
}

#[test]
fn packets_and_datagrams_keep_their_borders() {
    for sort in [libc::SOCK_SEQPACKET, libc::SOCK_DGRAM] {
        let (a, b) = pair(sort).unwrap();
        sockaddr::send(&a, b"one", None).unwrap();
        sockaddr::send(&a, b"two and a half", None).unwrap();
        let y = number(&b);
        let moved = Holder::with(vec![a, b]).move_here();
        assert_eq!(read(moved.fd(y), 100), b"one");
        assert_eq!(read(moved.fd(y), 100), b"two and a half");
    }
}

#[test]
fn an_end_whose_peer_is_gone_gives_the_rest_and_then_the_end() {
    for sort in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
        let (a, b) = pair(sort).unwrap();
        sockaddr::send(&a, b"rest", None).unwrap();
        drop(a);
        let y = number(&b);
        let moved = Holder::with(vec![b]).move_here();
        assert_eq!(read(moved.fd(y), 100), b"rest");
        assert_eq!(read(moved.fd(y), 100), b"");
        assert!(sockaddr::send(moved.fd(y), b"x", None).is_err());
    }
}

#[test]
fn shut_down_directions_stay_shut() {
    let (a, b) = pair(libc::SOCK_STREAM).unwrap();
    sockaddr::send(&a, b"before", None).unwrap();
    rustix::net::shutdown(&a, Shutdown::Write).unwrap();
    let (x, y) = (number(&a), number(&b));
    let moved = Holder::with(vec![a, b]).move_here();
    assert_eq!(read(moved.fd(y), 100), b"before");
    assert_eq!(read(moved.fd(y), 100), b"");
    assert_eq!(sockaddr::send(moved.fd(x), b"x", None).unwrap_err().raw_os_error(), Some(libc::EPIPE));
    sockaddr::send(moved.fd(y), b"the other way", None).unwrap();
    assert_eq!(read(moved.fd(x), 100), b"the other way");
}

#[test]
fn a_listener_with_connections_keeps_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o620)).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let (server, _) = listener.accept().unwrap();
    sockaddr::send(&client, b"request", None).unwrap();
    let (l, c, s) = (number(&listener), number(&client), number(&server));
    let moved = Holder::with(vec![listener.into(), client.into(), server.into()]).move_here();
    assert_eq!(read(moved.fd(s), 100), b"request");
    let name = sockaddr::remote(moved.fd(c)).unwrap();
    assert_eq!(&name[2..name.len() - 1], path.as_os_str().as_encoded_bytes());
    assert_eq!(sockaddr::local(moved.fd(s)).unwrap(), name);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o620);
    let again = UnixStream::connect(&path).unwrap();
    let accepted = rustix::net::accept(moved.fd(l)).unwrap();
    sockaddr::send(&accepted, b"hello", None).unwrap();
    assert_eq!(read(&again, 10), b"hello");
}

#[test]
fn abstract_names_and_connections_that_outlive_their_listener() {
    let name = format!("ferry-test-{}", std::process::id());
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name)
            .unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let client = UnixStream::connect_addr(&address).unwrap();
    let (server, _) = listener.accept().unwrap();
    drop(listener);
    let (c, s) = (number(&client), number(&server));
    let moved = Holder::with(vec![client.into(), server.into()]).move_here();
    let shown = sockaddr::remote(moved.fd(c)).unwrap();
    assert_eq!(&shown[3..], name.as_bytes());
    sockaddr::send(moved.fd(s), b"fine", None).unwrap();
    assert_eq!(read(moved.fd(c), 10), b"fine");
    assert!(UnixListener::bind_addr(&address).is_ok(), "the name is free, as it was");
}

#[test]
fn datagrams_wait_with_their_senders() {
    let directory = tempfile::tempdir().unwrap();
    let (server_path, client_path) = (directory.path().join("server"), directory.path().join("client"));
    let server = UnixDatagram::bind(&server_path).unwrap();
    let client = UnixDatagram::bind(&client_path).unwrap();
    client.connect(&server_path).unwrap();
    client.send(b"first").unwrap();
    client.send(b"").unwrap();
    client.send(b"third").unwrap();
    server.send_to(b"answer", &client_path).unwrap();
    let (s, c) = (number(&server), number(&client));
    let moved = Holder::with(vec![server.into(), client.into()]).move_here();
    let first = peek(moved.fd(s), 100).unwrap().unwrap();
    let from = first.from.unwrap();
    assert_eq!(&from[2..from.len() - 1], client_path.as_os_str().as_encoded_bytes());
    for expected in [&b"first"[..], b"", b"third"] {
        assert_eq!(read(moved.fd(s), 100), expected);
    }
    assert_eq!(read(moved.fd(c), 100), b"answer");
    sockaddr::send(moved.fd(c), b"connected", None).unwrap();
    assert_eq!(read(moved.fd(s), 100), b"connected");
}

#[test]
fn a_peer_outside_is_refused_by_name() {
    let (a, b) = pair(libc::SOCK_STREAM).unwrap();
    let number = number(&b);
    let holder = Holder::with(vec![b]);
    let Err(Error::Unsupported(blockers)) = holder.capture() else { panic!("it was captured") };
    assert!(blockers[0].what.contains(&format!("descriptor {number}")), "{blockers:?}");
    assert!(blockers[0].what.contains("outside"), "{blockers:?}");
    drop(a);
}

#[test]
fn descriptors_in_flight_are_refused_by_name() {
    let (a, b) = pair(libc::SOCK_STREAM).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let (c, d) = pair(libc::SOCK_DGRAM).unwrap();
    ferry_sys::scm::send(&c, b"x", &[rustix::fd::AsFd::as_fd(&file)]).unwrap();
    let holder = Holder::with(vec![a, b, c, d]);
    let Err(Error::Unsupported(blockers)) = holder.capture() else { panic!("it was captured") };
    assert!(blockers[0].what.contains("SCM_RIGHTS"), "{blockers:?}");
}

#[test]
fn connections_that_wait_to_be_accepted_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    let client = UnixStream::connect(directory.path().join("socket")).unwrap();
    let holder = Holder::with(vec![listener.into(), client.into()]);
    let error = holder.capture().unwrap_err();
    assert!(error.to_string().contains("wait"), "{error}");
}
