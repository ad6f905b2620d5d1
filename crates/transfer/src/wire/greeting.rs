//! The first bytes of every connection: magic, versions, and what the connection is for.
//!
//! The connecting side says which versions it speaks, the other answers with the highest that both do, or with none of them and
//! closes. The greeting itself never changes its layout; only its CBOR fields may grow.

use super::control;
use super::invalid;
use ferry_model::ids::{HostName, MoveId, WorkloadId};
use minicbor::{Decode, Encode};
use std::io::{self, Read, Write};

/// First bytes of a connection, both ways.
pub const MAGIC: [u8; 8] = *b"FERRY\r\n\x1a";

/// Oldest version that this build speaks. 1 had another hash over pages that follow, and set nothing aside; 2
/// said sets of pages in arrays.
pub const VERSION_MIN: u32 = 3;

/// Newest version that this build speaks.
pub const VERSION_MAX: u32 = 3;

/// Longest greeting, bytes.
const GREETING_BYTES_MAX: usize = 4096;

/// What the connecting side says.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Oldest version that it speaks.
    #[n(0)]
    pub version_min: u32,
    /// Newest version that it speaks.
    #[n(1)]
    pub version_max: u32,
    /// Its name; must be that of its certificate.
    #[n(2)]
    pub host: HostName,
    /// What the connection is for.
    #[n(3)]
    pub purpose: Purpose,
}

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Purpose {
    /// Control of one move: [`super::control`] messages follow.
    #[n(0)]
    Control {
        /// The workload.
        #[n(0)]
        workload: WorkloadId,
        /// The move.
        #[n(1)]
        mv: MoveId,
    },
    /// Memory of one move: [`super::frame`]s follow.
    #[n(1)]
    Pages {
        /// The move.
        #[n(0)]
        mv: MoveId,
        /// Its secret, from the control connection.
        #[cbor(n(1), with = "minicbor::bytes")]
        secret: [u8; 32],
        /// Which of the streams.
        #[n(2)]
        index: u32,
    },
    /// Handover messages of a move that both sides already have in their journals.
    #[n(2)]
    Handover {
        /// The workload.
        #[n(0)]
        workload: WorkloadId,
        /// The move.
        #[n(1)]
        mv: MoveId,
    },
    /// Questions between nodes (registry, health, a pull): the node's own messages follow.
    #[n(3)]
    Node,
    /// A way to pages that are missing at the target of a move that both sides have in their journals: [`super::demand`] follows, asked by
    /// the side that is connected to.
    #[n(4)]
    Demand {
        /// The workload.
        #[n(0)]
        workload: WorkloadId,
        /// The move.
        #[n(1)]
        mv: MoveId,
        /// Which set of streams: a later one replaces all of an earlier one.
        #[n(2)]
        generation: u32,
        /// Which of the set.
        #[n(3)]
        index: u32,
        /// How many there are in the set.
        #[n(4)]
        count: u32,
    },
}

/// What the other side answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Welcome {
    /// The version to speak; 0: none in common.
    #[n(0)]
    pub version: u32,
    /// The oldest version spoken here.
    #[n(1)]
    pub version_min: u32,
    /// The newest version spoken here.
    #[n(2)]
    pub version_max: u32,
    /// Why not, when the connection is turned away for another reason.
    #[n(3)]
    pub refusal: Option<String>,
}

/// Greets as the connecting side; returns the version agreed on.
pub fn connect(stream: &mut (impl Read + Write), host: &HostName, purpose: Purpose) -> io::Result<u32> {
    let hello = Hello { version_min: VERSION_MIN, version_max: VERSION_MAX, host: host.clone(), purpose };
    stream.write_all(&MAGIC)?;
    control::send_limited(stream, &hello, GREETING_BYTES_MAX)?;
    stream.flush()?;
    read_magic(stream)?;
    let welcome: Welcome = control::receive_limited(stream, GREETING_BYTES_MAX)?;
    if let Some(refusal) = welcome.refusal {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, refusal));
    }
    if !(VERSION_MIN..=VERSION_MAX).contains(&welcome.version) {
        return Err(invalid(format!(
            "The other node speaks versions {} to {} of the protocol, this one {VERSION_MIN} to {VERSION_MAX}",
            welcome.version_min, welcome.version_max
        )));
    }
    Ok(welcome.version)
}

/// Reads what the connecting side says. Answer it with [`welcome`] or [`refuse`].
pub fn accept(stream: &mut impl Read) -> io::Result<Hello> {
    read_magic(stream)?;
    control::receive_limited(stream, GREETING_BYTES_MAX)
}

/// Answers with the highest version in common and returns it; an error, told to the other side too, when there is none.
pub fn welcome(stream: &mut impl Write, hello: &Hello) -> io::Result<u32> {
    let version = choose(hello.version_min, hello.version_max);
    answer(stream, version.unwrap_or(0), None)?;
    version.ok_or_else(|| {
        invalid(format!(
            "{} speaks versions {} to {} of the protocol, this node {VERSION_MIN} to {VERSION_MAX}",
            hello.host, hello.version_min, hello.version_max
        ))
    })
}

/// Turns the connection away.
pub fn refuse(stream: &mut impl Write, why: &str) -> io::Result<()> {
    answer(stream, 0, Some(why.to_owned()))
}

fn answer(stream: &mut impl Write, version: u32, refusal: Option<String>) -> io::Result<()> {
    stream.write_all(&MAGIC)?;
    let welcome = Welcome { version, version_min: VERSION_MIN, version_max: VERSION_MAX, refusal };
    control::send_limited(stream, &welcome, GREETING_BYTES_MAX)?;
    stream.flush()
}

/// The highest version that both speak.
fn choose(min: u32, max: u32) -> Option<u32> {
    let highest = max.min(VERSION_MAX);
    (highest >= min && highest >= VERSION_MIN).then_some(highest)
}

fn read_magic(stream: &mut impl Read) -> io::Result<()> {
    let mut magic = [0; 8];
    stream.read_exact(&mut magic)?;
    if magic == MAGIC { Ok(()) } else { Err(invalid("What connected does not speak Ferry's protocol")) }
}

/// For the fuzzer: a greeting in a slice.
pub fn decode(bytes: &[u8]) -> io::Result<Hello> {
    accept(&mut &*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    #[test]
    fn two_sides_agree_on_a_version_and_a_purpose() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let other = std::thread::spawn(move || {
            let hello = accept(&mut b).unwrap();
            assert_eq!(hello.purpose, Purpose::Node);
            assert_eq!(hello.host, host("a"));
            welcome(&mut b, &hello).unwrap()
        });
        assert_eq!(connect(&mut a, &host("a"), Purpose::Node).unwrap(), VERSION_MAX);
        assert_eq!(other.join().unwrap(), VERSION_MAX);
    }

    #[test]
    fn a_newer_peer_that_still_speaks_our_version_is_welcome_and_others_are_not() {
        assert_eq!(choose(VERSION_MIN, VERSION_MAX + 7), Some(VERSION_MAX));
        assert_eq!(choose(VERSION_MAX + 1, VERSION_MAX + 7), None);
        assert_eq!(choose(0, 0), None);
    }

    #[test]
    fn a_refusal_reaches_the_other_side_in_words() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let other = std::thread::spawn(move || {
            accept(&mut b).unwrap();
            refuse(&mut b, "node-9 was removed from the fleet").unwrap();
        });
        let error = connect(&mut a, &host("node-9"), Purpose::Node).unwrap_err();
        assert!(error.to_string().contains("removed"));
        other.join().unwrap();
    }
}
