//! What a remote clone is not given: the ends of established connections. Its listeners stay.

use ferry_process::records::State;
use ferry_process::records::file::Kind;
use ferry_process::records::socket::{Detail, TcpSocket};

/// `TCP_CLOSE` and `TCP_LISTEN`, as in `tcp_info`.
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

/// Turns established connections into ones whose peers are gone: two programs must not speak on one connection. Those within
/// the workload (over its loopback) are copied with it, both ends.
pub(super) fn cut_connections(state: &mut State) {
    for description in &mut state.files.descriptions {
        if let Kind::Socket(socket) = &mut description.kind
            && let Detail::Tcp(tcp) = &mut socket.detail
            && !matches!(tcp.state, CLOSE | LISTEN)
            && !tcp.remote.as_deref().is_some_and(is_loopback)
        {
            **tcp = TcpSocket { state: CLOSE, shutdown: 3, ..TcpSocket::default() };
        }
    }
}

/// Whether a `sockaddr` is of the loopback network.
fn is_loopback(address: &[u8]) -> bool {
    let Some(family) = address.first_chunk::<2>() else { return false };
    match (u16::from_ne_bytes(*family), address.get(4), address.get(8..24)) {
        (2, Some(first), _) => *first == 127,
        (10, _, Some(ip)) => ip[..15] == [0; 15] && ip[15] == 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_process::records::file::Description;
    use ferry_process::records::socket::Socket;

    fn tcp(state: u8, remote: Option<[u8; 4]>) -> Description {
        let remote = remote.map(|ip| [&2u16.to_ne_bytes()[..], &[0, 80], &ip, &[0; 8]].concat());
        let detail = Detail::Tcp(Box::new(TcpSocket { state, remote, ..TcpSocket::default() }));
        let kind = Kind::Socket(Box::new(Socket { detail, ..Socket::default() }));
        Description { kind, ..Description::default() }
    }

    #[test]
    fn only_connections_to_others_are_cut() {
        let mut state = State::default();
        state.files.descriptions = vec![
            tcp(1, Some([10, 0, 0, 9])),
            tcp(1, Some([127, 0, 0, 1])),
            tcp(LISTEN, None),
            tcp(8, Some([8; 4])),
        ];
        cut_connections(&mut state);
        let states: Vec<u8> = state
            .files
            .descriptions
            .iter()
            .map(|each| match &each.kind {
                Kind::Socket(socket) => match &socket.detail {
                    Detail::Tcp(tcp) => tcp.state,
                    _ => 0,
                },
                _ => 0,
            })
            .collect();
        assert_eq!(states, vec![CLOSE, 1, LISTEN, CLOSE]);
    }
}
