//! TCP: connections go on with both queues, in every state that has a descriptor.
//!
//! The peer stays here and knows nothing. There is no wire to lock within one namespace, so the holder is killed while its
//! sockets are in repair mode: no packet leaves, as with a locked network.

use crate::holder::{Holder, Moved, in_own_network, number, read};
use ferry_process::capture::files::Error;
use ferry_process::restore::files::release_left;
use ferry_sys::tcp_repair::{self, Queue};
use ferry_sys::{sockaddr, sockopt};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A listener, the workload's end of a connection, and the peer's.
fn connection(address: &str) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (own, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (listener, own, peer)
}

fn stream(moved: &Moved, fd: i32) -> TcpStream {
    let stream = TcpStream::from(moved.fd(fd).try_clone_to_owned().unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn expect(stream: &mut TcpStream, expected: &[u8]) {
    let mut buffer = vec![0; expected.len()];
    stream.read_exact(&mut buffer).unwrap();
    let differs = (0..expected.len()).find(|at| buffer[*at] != expected[*at]);
    assert!(differs.is_none(), "{} bytes differ at {differs:?}", expected.len());
}

#[test]
fn a_connection_goes_on_with_data_queued_both_ways() {
    in_own_network(|| {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, mut own, mut peer) = connection(address);
            peer.write_all(b"hello").unwrap();
            let mut seen = [0; 5];
            own.read_exact(&mut seen).unwrap();
            own.set_nodelay(true).unwrap();
            peer.write_all(b"not read yet").unwrap();
            own.write_all(b"not read by the peer yet").unwrap();
            let (l, o) = (number(&listener), number(&own));
            let port = listener.local_addr().unwrap();
            let holder = Holder::with(vec![listener.into(), own.into()]);
            let mut moved = holder.move_here();
            moved.made.release_network().unwrap();
            let mut own = stream(&moved, o);
            expect(&mut own, b"not read yet");
            expect(&mut peer, b"not read by the peer yet");
            own.write_all(b"on").unwrap();
            expect(&mut peer, b"on");
            peer.write_all(b"and on").unwrap();
            expect(&mut own, b"and on");
            assert!(own.nodelay().unwrap());
            // The listener takes new ones on the same port.
            let mut second = TcpStream::connect(port).unwrap();
            let accepted = rustix::net::accept(moved.fd(l)).unwrap();
            sockaddr::send(&accepted, b"new", None).unwrap();
            expect(&mut second, b"new");
            for fd in [l, o] {
                let reuse = sockopt::get_int(moved.fd(fd), libc::SOL_SOCKET, libc::SO_REUSEADDR).unwrap();
                assert_eq!(reuse, 1, "as std sets it");
            }
        }
    });
}

#[test]
fn full_queues_arrive_whole() {
    in_own_network(|| {
        let (listener, own, mut peer) = connection("127.0.0.1:0");
        let fill = |socket: &TcpStream, seed: u8| {
            socket.set_nonblocking(true).unwrap();
            let mut written = Vec::new();
            // Until both this queue and the receiver's are full.
            for number in 0_u32.. {
                let block: Vec<u8> = (0..8192_u32).map(|at| (at * 7 + number) as u8 ^ seed).collect();
                match (&mut &*socket).write(&block) {
                    Ok(len) => written.extend(&block[..len]),
                    Err(_) => break,
                }
            }
            socket.set_nonblocking(false).unwrap();
            written
        };
        let to_peer = fill(&own, 1);
        let to_own = fill(&peer, 2);
        assert!(to_peer.len() > 100_000 && to_own.len() > 100_000);
        let o = number(&own);
        let mut moved = Holder::with(vec![listener.into(), own.into()]).move_here();
        moved.made.release_network().unwrap();
        let mut own = stream(&moved, o);
        std::thread::scope(|scope| {
            scope.spawn(|| expect(&mut peer, &to_peer));
            expect(&mut own, &to_own);
        });
    });
}

#[test]
fn data_that_was_on_its_way_is_sent_again_at_once() {
    in_own_network(|| {
        let (listener, own, mut peer) = connection("127.0.0.1:0");
        // The wire is cut before the answer goes out: it counts as sent, and is lost.
        ferry_sys::netdevice::set_up("lo").unwrap();
        let o = number(&own);
        let mut writer = own.try_clone().unwrap();
        sockopt::set_int(&writer, libc::IPPROTO_TCP, libc::TCP_CORK, 1).unwrap();
        writer.write_all(b"the answer").unwrap();
        drop(writer);
        let mut moved = Holder::with(vec![listener.into(), own.into()]).move_here();
        let start = Instant::now();
        moved.made.release_network().unwrap();
        sockopt::set_int(moved.fd(o), libc::IPPROTO_TCP, libc::TCP_CORK, 0).unwrap();
        expect(&mut peer, b"the answer");
        assert!(start.elapsed() < Duration::from_millis(150), "{:?}", start.elapsed());
    });
}

#[test]
fn half_closed_connections() {
    in_own_network(|| {
        // Closed by us: the peer sees the end and may still talk.
        let (listener, mut own, mut peer) = connection("127.0.0.1:0");
        own.write_all(b"bye").unwrap();
        own.shutdown(Shutdown::Write).unwrap();
        let o = number(&own);
        let mut moved = Holder::with(vec![listener.into(), own.into()]).move_here();
        moved.made.release_network().unwrap();
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"bye");
        peer.write_all(b"still there").unwrap();
        expect(&mut stream(&moved, o), b"still there");
        drop((peer, moved));

        // Closed by the peer: what it sent is read, then the end, and we may still talk.
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, own, mut peer) = connection(address);
            peer.write_all(b"last").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            let o = number(&own);
            let mut moved = Holder::with(vec![listener.into(), own.into()]).move_here();
            moved.made.release_network().unwrap();
            let mut own = stream(&moved, o);
            let mut rest = Vec::new();
            own.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"last");
            own.write_all(b"answer").unwrap();
            expect(&mut peer, b"answer");
        }
    });
}

#[test]
fn a_cancelled_move_leaves_the_connection_as_it_was() {
    in_own_network(|| {
        let (listener, own, mut peer) = connection("127.0.0.1:0");
        peer.write_all(b"queued").unwrap();
        let mut mine = own.try_clone().unwrap();
        let holder = Holder::with(vec![listener.into(), own.into()]);
        let mut captured = holder.capture().unwrap();
        assert_eq!(captured.held.len(), 1);
        captured.held.resume();
        expect(&mut mine, b"queued");
        mine.write_all(b"as before").unwrap();
        expect(&mut peer, b"as before");
        assert_eq!(sockopt::get_int(&mine, libc::SOL_SOCKET, libc::SO_REUSEADDR).unwrap(), 1);
        // Whoever held them is gone: the connections are found by themselves.
        drop(holder.capture().unwrap());
        assert_eq!(ferry_process::capture::files::end_repair(&[holder.task]).unwrap(), 1);
        mine.write_all(b"again").unwrap();
        expect(&mut peer, b"again");
    });
}

#[test]
fn connections_that_wait_to_be_accepted_are_not_lost_silently() {
    in_own_network(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let holder = Holder::with(vec![listener.into()]);
        let error = holder.capture().unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        assert!(error.to_string().contains("wait to be accepted"), "{error}");
        drop(peer);
    });
}

#[test]
fn sockets_that_never_were_connected_and_those_that_were() {
    in_own_network(|| {
        let fresh = sockaddr::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        let (listener, own, peer) = connection("127.0.0.1:0");
        drop(peer);
        let _ = own.shutdown(Shutdown::Write);
        std::thread::sleep(Duration::from_millis(50));
        let (f, o) = (number(&fresh), number(&own));
        let port = listener.local_addr().unwrap();
        let mut moved = Holder::with(vec![fresh, listener.into(), own.into()]).move_here();
        moved.made.release_network().unwrap();
        assert_eq!(read(moved.fd(o), 10), b"");
        let address = sockaddr::local(moved.fd(moved.files.tables[0].descriptors[4].fd)).unwrap();
        assert_eq!(u16::from_be_bytes([address[2], address[3]]), port.port());
        sockaddr::connect(moved.fd(f), &address).unwrap();
    });
}

#[test]
fn much_that_was_lost_on_its_way_is_sent_again_before_the_slow_timer() {
    in_own_network(|| {
        small_segments();
        let (listener, own, mut peer) = connection("127.0.0.1:0");
        let mut writer = own.try_clone().unwrap();
        // Until the window is wide.
        let block: Vec<u8> = (0..400_000_u32).map(|at| (1 + ((at * 31) >> 3)) as u8).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&block).unwrap());
            expect(&mut peer, &block);
        });
        ferry_sys::socket_filter::drop_all(&peer).unwrap();
        let lost = &block[..40_000];
        writer.write_all(lost).unwrap();
        drop(writer);
        let o = number(&own);
        let mut moved = Holder::with(vec![listener.into(), own.into()]).move_here();
        ferry_sys::socket_filter::detach(&peer).unwrap();
        let start = Instant::now();
        moved.made.release_network().unwrap();
        expect(&mut peer, lost);
        // The slow timer takes 3 s.
        assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
        eprintln!("sent again within {:?}", start.elapsed());
        let mut own = stream(&moved, o);
        own.write_all(b"on").unwrap();
        expect(&mut peer, b"on");
    });
}

#[test]
fn an_error_that_was_not_told_is_told_after_a_cancelled_move_and_after_one() {
    in_own_network(|| {
        let (listener, own, mut peer) = connection("127.0.0.1:0");
        peer.write_all(b"last words").unwrap();
        // A reset: closed with something unread.
        let mut mine = own.try_clone().unwrap();
        mine.write_all(b"unread").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        drop(peer);
        std::thread::sleep(Duration::from_millis(20));
        let name = own.local_addr().unwrap();
        let o = number(&own);
        let holder = Holder::with(vec![listener.into(), own.into()]);
        holder.capture().unwrap().held.resume();
        assert_eq!(mine.local_addr().unwrap(), name);
        drop(mine);
        let mut moved = holder.move_here();
        moved.made.release_network().unwrap();
        let mut own = stream(&moved, o);
        assert_eq!(own.local_addr().unwrap(), name);
        expect(&mut own, b"last words");
        let error = own.read(&mut [0]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
        assert_eq!(own.read(&mut [0]).unwrap(), 0);
    });
}

/// Where the process that restores is killed, in the middle of giving a connection what it had.
#[derive(Clone, Copy, Debug)]
enum Killed {
    /// Before all of it.
    Before,
    /// So many bytes are in the queue as sent.
    Sent(usize),
    /// And it is out of repair mode, with so many more.
    Written(usize),
    /// All is in, the end too.
    Ended,
}

/// Gives the connection `fd` of `moved` a part of what it is to have, as the release would, and loses the rest with the process.
/// `sent` is what counts as sent, with the byte before it.
fn cut_short(moved: &Moved, fd: i32, at: Killed, sent: &[u8], unsent: &[u8]) {
    let socket = moved.fd(fd);
    let _ = ferry_sys::socket_filter::detach(socket);
    let put = |bytes: &[u8]| {
        tcp_repair::choose(socket, Queue::Send).unwrap();
        let mut bytes = bytes;
        while !bytes.is_empty() {
            bytes = &bytes[sockaddr::send(socket, bytes, None).unwrap()..];
        }
        tcp_repair::choose(socket, Queue::None).unwrap();
    };
    match at {
        Killed::Before => {}
        Killed::Sent(count) => put(&sent[..count]),
        Killed::Written(_) | Killed::Ended => {
            put(sent);
            tcp_repair::end_silently(socket).unwrap();
            let count = if let Killed::Written(count) = at { count } else { unsent.len() };
            let mut bytes = &unsent[..count];
            while !bytes.is_empty() {
                bytes = &bytes[sockaddr::send(socket, bytes, None).unwrap()..];
            }
            if let Killed::Ended = at {
                rustix::net::shutdown(socket, rustix::net::Shutdown::Write).unwrap();
            }
        }
    }
}

/// Ends the process that restored `moved` and lets another do what it had left to do, twice.
fn replaced(moved: Moved, tcp: &[i32]) -> Holder {
    let written = moved.made.unreleased().unwrap().unwrap();
    let held = tcp.iter().map(|fd| moved.fd(*fd).try_clone_to_owned().unwrap()).collect();
    let tasks = Holder::with(held);
    drop(moved);
    for _ in 0..2 {
        release_left(&written, &[tasks.task], None).unwrap();
    }
    tasks
}

#[test]
fn what_was_not_sent_outlives_who_restored_it_and_gets_there_once() {
    let answer = b"0123456789 the answer";
    let all = answer.len();
    for at in [Killed::Before, Killed::Written(0), Killed::Written(7), Killed::Written(all), Killed::Ended] {
        in_own_network(|| {
            let (listener, own, mut peer) = connection("127.0.0.1:0");
            let o = number(&own);
            let mut writer = own.try_clone().unwrap();
            sockopt::set_int(&writer, libc::IPPROTO_TCP, libc::TCP_CORK, 1).unwrap();
            writer.write_all(answer).unwrap();
            ferry_sys::socket_filter::drop_all(&peer).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
            drop(writer);
            let moved = Holder::with(vec![listener.into(), own.into()]).move_here();
            ferry_sys::socket_filter::detach(&peer).unwrap();
            cut_short(&moved, o, at, &[], answer);
            let _tasks = replaced(moved, &[o]);
            let mut got = Vec::new();
            peer.read_to_end(&mut got).unwrap();
            assert_eq!(got, answer, "{at:?}");
        });
    }
}

#[test]
fn much_that_was_on_its_way_outlives_who_restored_it() {
    let block: Vec<u8> = (0..400_000_u32).map(|at| (1 + ((at * 31) >> 3)) as u8).collect();
    for at in [Killed::Before, Killed::Sent(20_000), Killed::Written(0)] {
        in_own_network(|| {
            small_segments();
            let (listener, own, mut peer) = connection("127.0.0.1:0");
            let mut writer = own.try_clone().unwrap();
            // Until the window is wide.
            std::thread::scope(|scope| {
                scope.spawn(|| writer.write_all(&block).unwrap());
                expect(&mut peer, &block);
            });
            ferry_sys::socket_filter::drop_all(&peer).unwrap();
            let lost = &block[..40_000];
            writer.write_all(lost).unwrap();
            drop(writer);
            let o = number(&own);
            let moved = Holder::with(vec![listener.into(), own.into()]).move_here();
            ferry_sys::socket_filter::detach(&peer).unwrap();
            let (unsent, segment) = unsent_of(&moved, o);
            let (sent, unsent) = lost.split_at(lost.len() - unsent as usize);
            assert!(sent.len() > 20_000 && segment < 2000, "{} count as sent, by {segment}", sent.len());
            cut_short(&moved, o, at, &[&[0], sent].concat(), unsent);
            let tasks = replaced(moved, &[o]);
            expect(&mut peer, lost);
            drop(tasks);
            // The end comes right after it.
            assert_eq!(peer.read(&mut [0]).unwrap(), 0, "{at:?}");
        });
    }
}

/// Segments as on an Ethernet: what counts as sent is then soon more than the first window of a connection.
fn small_segments() {
    let done = std::process::Command::new("ip").args(["link", "set", "lo", "mtu", "1500"]).status();
    assert!(done.unwrap().success());
}

/// How many bytes of the send queue were never sent, and the size of a segment.
fn unsent_of(moved: &Moved, fd: i32) -> (u32, u32) {
    use ferry_process::records::file::Kind;
    use ferry_process::records::socket::Detail;
    let Kind::Socket(socket) = &moved.description(fd).kind else { panic!("no socket") };
    let Detail::Tcp(tcp) = &socket.detail else { panic!("no TCP") };
    let connection = tcp.connection.as_ref().unwrap();
    (connection.unsent, connection.mss)
}
