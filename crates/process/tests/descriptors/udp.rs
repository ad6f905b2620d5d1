//! UDP sockets.

use crate::holder::{Holder, in_own_network, number};
use ferry_sys::sockaddr::{self, peek};
use std::net::UdpSocket;

#[test]
fn addresses_and_waiting_datagrams() {
    in_own_network(|| {
        for any in ["0.0.0.0:0", "[::]:0", "127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(any).unwrap();
            let port = server.local_addr().unwrap().port();
            let six = any.starts_with('[');
            let client = UdpSocket::bind(if six { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
            client.connect((if six { "::1" } else { "127.0.0.1" }, port)).unwrap();
            client.send(b"first").unwrap();
            client.send(&[]).unwrap();
            client.send(&[9; 1400]).unwrap();
            let client_address = client.local_addr().unwrap();
            let (s, c) = (number(&server), number(&client));
            let moved = Holder::with(vec![server.into(), client.into()]).move_here();
            let server = UdpSocket::from(moved.fd(s).try_clone_to_owned().unwrap());
            server.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
            assert_eq!(server.local_addr().unwrap().port(), port);
            let mut buffer = [0; 2000];
            for expected in [&b"first"[..], &[], &[9; 1400]] {
                let (len, from) = server.recv_from(&mut buffer).unwrap();
                assert_eq!(from, client_address);
                assert!(&buffer[..len] == expected, "{len} bytes instead of {}", expected.len());
            }
            server.send_to(b"answer", client_address).unwrap();
            let client = UdpSocket::from(moved.fd(c).try_clone_to_owned().unwrap());
            client.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
            let len = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"answer");
            assert!(peek(moved.fd(s), 10).unwrap().is_none());
            assert!(sockaddr::remote(moved.fd(s)).is_err());
        }
    });
}
