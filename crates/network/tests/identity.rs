//! The identity of a workload, its lock and its announcement, with real devices in namespaces of the test's own.

use ferry_network::announce::announce;
use ferry_network::{
    Address, Error, Identity, Neighbour, Route, attach, bridge_create, capture, detach, devices,
    host_end_name, lock, locked, mac_for, unlock,
};
use ferry_sys::netlink::in_namespace;
use ferry_sys::packet::PacketSocket;
use ferry_sys::unshare::{UnshareFlags, unshare};
use rustix::fd::{AsFd, OwnedFd};
use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

/// Puts this thread into a new network namespace: the host of the test.
fn host() {
    unshare(UnshareFlags::NEWNET).unwrap();
}

fn present() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").unwrap().into()
}

/// A network namespace as a capsule has.
fn workload() -> OwnedFd {
    let here = present();
    host();
    let namespace = present();
    rustix::thread::move_into_link_name_space(here.as_fd(), None).unwrap();
    namespace
}

fn identity(last: u8) -> Identity {
    let address = |text: String| text.parse::<Address>().unwrap();
    Identity {
        device: "eth0".into(),
        mac: mac_for([last; 16]),
        addresses: vec![address(format!("10.7.0.{last}/24")), address(format!("fd07::{last}/64"))],
        routes: vec![
            Route::default_via("10.7.0.254".parse().unwrap()),
            Route::default_via("fd07::fe".parse().unwrap()),
        ],
        neighbours: vec![Neighbour {
            ip: address("10.7.0.253/32".into()),
            mac: [2, 9, 9, 9, 9, 9],
            permanent: true,
        }],
        mtu: 1400,
    }
}

/// A command in the calling thread's namespace.
fn run(words: &str) -> String {
    let mut parts = words.split(' ');
    let output = Command::new(parts.next().unwrap()).args(parts).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn an_identity_is_given_captured_and_given_again() {
    host();
    bridge_create("br0").unwrap();
    let first = workload();
    let given = identity(7);
    attach(first.as_fd(), "br0", "fyone", &given).unwrap();
    assert!(locked("fyone").unwrap());
    unlock("fyone", first.as_fd()).unwrap();
    let captured = capture(first.as_fd()).unwrap();
    // Metrics of IPv6 routes are set by the kernel where none was given.
    let mut expected = given.clone();
    expected.routes[1].metric = 1024;
    assert_eq!(captured, expected);
    // Again elsewhere, from what was captured.
    lock("fyone").unwrap();
    let second = workload();
    attach(second.as_fd(), "br0", "fytwo", &captured).unwrap();
    assert_eq!(capture(second.as_fd()).unwrap(), captured);
    assert_eq!(devices(second.as_fd()).unwrap(), [("eth0".to_owned(), "veth".to_owned())]);
    // An attempt may be repeated over a first one's remains.
    detach("fytwo").unwrap();
    attach(second.as_fd(), "br0", "fytwo", &captured).unwrap();
    for name in ["fyone", "fytwo", "fytwo"] {
        detach(name).unwrap();
    }
    assert_eq!(devices(first.as_fd()).unwrap(), []);
}

#[test]
fn a_bridge_keeps_its_address_when_workloads_come_and_go() {
    host();
    bridge_create("br0").unwrap();
    // As high as an address that is drawn gets: whatever else came would be lower.
    for words in [
        "ip link add up0 type veth peer name up1",
        "ip link set up0 address fe:fe:ff:ff:ff:ff",
        "ip link set up0 master br0",
    ] {
        assert_eq!(run(words), "", "{words}");
    }
    let address = || {
        let shown = run("ip -o link show br0");
        shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).map(str::to_owned)
    };
    let before = address();
    assert_eq!(before.as_deref(), Some("fe:fe:ff:ff:ff:ff"));
    let first = workload();
    attach(first.as_fd(), "br0", "fyone", &identity(7)).unwrap();
    unlock("fyone", first.as_fd()).unwrap();
    assert_eq!(address(), before);
    detach("fyone").unwrap();
    assert_eq!(address(), before);
}

#[test]
fn two_workloads_talk_until_one_is_locked() {
    host();
    bridge_create("br0").unwrap();
    let (first, second) = (workload(), workload());
    for (namespace, last) in [(&first, 1), (&second, 2)] {
        let name = host_end_name(&format!("w-{last}{last}{last}{last}"));
        attach(namespace.as_fd(), "br0", &name, &identity(last)).unwrap();
        unlock(&name, namespace.as_fd()).unwrap();
    }
    let ping = |to: &str| {
        // Bound here and there: a datagram socket's echo needs no program but the test.
        let (from, at) = (socket(&first, &to.replace('2', "1")), socket(&second, to));
        from.send_to(b"hello", at.local_addr().unwrap()).ok();
        at.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        at.recv(&mut [0; 16]).is_ok()
    };
    let eventually = |to: &str| (0..10).any(|_| ping(to));
    assert!(eventually("10.7.0.2") && eventually("fd07::2"));
    lock(&host_end_name("w-2222")).unwrap();
    assert!(!ping("10.7.0.2") && !ping("fd07::2"));
    unlock(&host_end_name("w-2222"), second.as_fd()).unwrap();
    assert!(eventually("10.7.0.2"));
}

#[test]
fn a_workload_is_reached_whatever_its_address() {
    host();
    bridge_create("br0").unwrap();
    let (first, second) = (workload(), workload());
    attach(first.as_fd(), "br0", "fyone", &identity(1)).unwrap();
    unlock("fyone", first.as_fd()).unwrap();
    // The highest of those that are drawn begin as Ferry's own ends of the cables do.
    for mac in [[0xfe, 0xff, 1, 2, 3, 4], [0xfe, 0xff, 1, 2, 3, 5], [0xfe, 7, 1, 2, 3, 4], [2, 0, 0, 0, 0, 0]]
    {
        attach(second.as_fd(), "br0", "fytwo", &Identity { mac, ..identity(2) }).unwrap();
        unlock("fytwo", second.as_fd()).unwrap();
        for ip in ["10.7.0.2", "fd07::2"] {
            let (from, at) = (socket(&first, &ip.replace('2', "1")), socket(&second, ip));
            at.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let reached = (0..10).any(|_| {
                from.send_to(b"hello", at.local_addr().unwrap()).ok();
                at.recv(&mut [0; 16]).is_ok()
            });
            assert!(reached, "{mac:x?} at {ip}");
        }
        detach("fytwo").unwrap();
        // What the first remembers of the second is over.
        let old = in_namespace(first.as_fd(), || Ok(run("ip neigh flush all"))).unwrap();
        assert_eq!(old, "");
    }
}

#[test]
fn what_comes_for_a_locked_workload_is_kept_and_delivered() {
    use ferry_network::hold::{Holder, deliver};
    use std::io::{Read, Write};
    host();
    bridge_create("br0").unwrap();
    let (first, second) = (workload(), workload());
    for (namespace, name, last) in [(&first, "fyone", 1), (&second, "fytwo", 2)] {
        attach(namespace.as_fd(), "br0", name, &identity(last)).unwrap();
        unlock(name, namespace.as_fd()).unwrap();
    }
    let (from, at) = (socket(&first, "10.7.0.1"), socket(&second, "10.7.0.2"));
    at.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let listener = in_namespace(second.as_fd(), || std::net::TcpListener::bind("10.7.0.2:0")).unwrap();
    let mut near = in_namespace(first.as_fd(), || {
        std::net::TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(10))
    })
    .unwrap();
    let (mut far, _) = listener.accept().unwrap();

    let mut holder = Holder::open("br0", identity(2)).unwrap();
    holder.begin().unwrap();
    near.write_all(b"twice").unwrap();
    from.send_to(b"once", at.local_addr().unwrap()).unwrap();
    let (mut twice, mut once) = ([0; 5], [0; 16]);
    far.read_exact(&mut twice).unwrap();
    assert_eq!(at.recv(&mut once).unwrap(), 4);
    lock("fytwo").unwrap();
    assert!(locked("fytwo").unwrap());
    holder.locked();
    from.send_to(b"meanwhile", at.local_addr().unwrap()).unwrap();
    from.send_to(b"not for it", "10.7.0.3:9").unwrap();
    // More than a packet: handed on uncut and without checksums between devices of one machine.
    let block: Vec<u8> = (0..10_000_u32).map(|at| (at >> 3) as u8).collect();
    near.write_all(&block).unwrap();
    at.set_nonblocking(true).unwrap();
    assert!(at.recv(&mut [0; 16]).is_err(), "it is locked");
    at.set_nonblocking(false).unwrap();
    let frames = holder.take();
    assert!(frames.len() >= 3 && holder.take().is_empty(), "{}", frames.len());

    unlock("fytwo", second.as_fd()).unwrap();
    holder.end().unwrap();
    assert_eq!(deliver("fytwo", &frames).unwrap(), frames.len());
    let mut buffer = [0; 16];
    assert_eq!(at.recv(&mut buffer).unwrap(), 9);
    assert_eq!(&buffer[..9], b"meanwhile");
    at.set_nonblocking(true).unwrap();
    assert!(at.recv(&mut buffer).is_err(), "and once only");
    let mut got = vec![0; block.len()];
    far.read_exact(&mut got).unwrap();
    assert!(got == block);
    // Nothing is kept any more.
    from.send_to(b"again", at.local_addr().unwrap()).unwrap();
    assert!(holder.take().is_empty());
}

#[test]
fn what_is_sent_as_soon_as_the_lock_is_off_arrives() {
    host();
    bridge_create("br0").unwrap();
    let (first, second) = (workload(), workload());
    let ip = "10.7.0.2/32".parse().unwrap();
    let known = Neighbour { ip, mac: identity(2).mac, permanent: true };
    let knowing = Identity { neighbours: vec![known], ..identity(1) };
    attach(second.as_fd(), "br0", "fytwo", &identity(2)).unwrap();
    unlock("fytwo", second.as_fd()).unwrap();
    let at = socket(&second, "10.7.0.2");
    at.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    for number in 0..40 {
        attach(first.as_fd(), "br0", "fyone", &knowing).unwrap();
        let from = socket(&first, "10.7.0.1");
        unlock("fyone", first.as_fd()).unwrap();
        // Once: whoever waits for an answer to it would wait for a second.
        from.send_to(b"now", at.local_addr().unwrap()).unwrap();
        assert!(at.recv(&mut [0; 16]).is_ok(), "datagram {number}");
        detach("fyone").unwrap();
    }
}

fn socket(namespace: &OwnedFd, ip: &str) -> std::net::UdpSocket {
    let ip: std::net::IpAddr = ip.parse().unwrap();
    in_namespace(namespace.as_fd(), || std::net::UdpSocket::bind((ip, 0))).unwrap()
}

/// The bridge's port for a MAC address, by `bridge fdb`.
fn port_of(mac: [u8; 6]) -> Option<String> {
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let mac = mac.join(":");
    let table = run("bridge fdb show br br0");
    let line = table.lines().find(|line| line.starts_with(&mac) && !line.contains("permanent"))?;
    line.split(' ').skip_while(|word| *word != "dev").nth(1).map(str::to_owned)
}

#[test]
fn switches_and_neighbours_learn_by_the_announcement() {
    host();
    bridge_create("br0").unwrap();
    let (client, source, target) = (workload(), workload(), workload());
    attach(client.as_fd(), "br0", "fyclient", &identity(1)).unwrap();
    attach(source.as_fd(), "br0", "fysource", &identity(2)).unwrap();
    attach(target.as_fd(), "br0", "fytarget", &identity(2)).unwrap();
    unlock("fyclient", client.as_fd()).unwrap();
    unlock("fysource", source.as_fd()).unwrap();
    announce(source.as_fd(), &identity(2)).unwrap();
    assert_eq!(port_of(identity(2).mac).as_deref(), Some("fysource"));

    let heard = in_namespace(client.as_fd(), || PacketSocket::open("eth0")).unwrap();
    lock("fysource").unwrap();
    unlock("fytarget", target.as_fd()).unwrap();
    announce(target.as_fd(), &identity(2)).unwrap();
    assert_eq!(port_of(identity(2).mac).as_deref(), Some("fytarget"));

    let (mut arp, mut advertised) = (false, false);
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline && !(arp && advertised) {
        let mut frame = [0; 2048];
        match heard.receive(&mut frame) {
            Ok(_) if frame[6..12] != identity(2).mac => {}
            Ok(_) => {
                arp |= frame[12..14] == [8, 6] && frame[28..32] == [10, 7, 0, 2];
                advertised |= frame[12..14] == [0x86, 0xdd] && frame[54] == 136;
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    assert!(arp && advertised);
}

#[test]
fn what_is_missing_or_foreign_is_named() {
    host();
    let namespace = workload();
    let error = attach(namespace.as_fd(), "br7", "fyx", &identity(1)).unwrap_err();
    let public = ferry_model::error::Error::from(error);
    assert!(
        public.message.contains("br7") && public.hints[0].contains("ip link add br7 type bridge"),
        "{public:?}"
    );
    bridge_create("br0").unwrap();
    run("ip link set br0 down");
    assert!(matches!(attach(namespace.as_fd(), "br0", "fyx", &identity(1)), Err(Error::Invalid(_))));
    run("ip link set br0 up");
    // Not Ferry's to remove.
    run("ip link add fyx type bridge");
    assert!(matches!(detach("fyx"), Err(Error::Refused(_))));
    run("ip link del fyx");
    attach(namespace.as_fd(), "br0", "fyx", &identity(1)).unwrap();
    in_namespace(namespace.as_fd(), || {
        run("ip link add own0 type bridge");
        Ok(())
    })
    .unwrap();
    let error = capture(namespace.as_fd()).unwrap_err().to_string();
    assert!(error.contains("own0"), "{error}");
    // A failed attempt leaves no device.
    let other = workload();
    let bad = Identity { routes: vec![Route::default_via("192.0.2.1".parse().unwrap())], ..identity(3) };
    assert!(attach(other.as_fd(), "br0", "fybad", &bad).is_err());
    assert!(locked("fybad").is_err());
}
