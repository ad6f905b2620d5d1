//! Control messages: one CBOR value each, behind its length (`u32`, little-endian), fields numbered by hand.
//!
//! The dialogue of a move, on one connection (S source, T target):
//!
//! ```text
//! S  Ask                     what do you have, what are you?
//! T  Answer
//! S  Begin, Handover(offer)  the plan, the workload, the secret of the page streams
//! T  Handover(reserved)
//! S  Bulk(files) Chunk.. End staged while the workload runs; again, what changed since, when it is frozen
//! T  Taken
//! T  Holds                   of an earlier visit it has pages; WhichHeld, Bulk(held) Chunk.. End before the first round
//! S  Bulk(draft) Chunk.. End pre-copy, before a round: what the workload looks like now; answered by Ready
//! S  Bulk(state) Chunk.. End execution state of the frozen workload
//! T  Ready                   spaces exist: the page streams may fill them
//! S  Bulk(missing) Chunk.. End pages that follow after the resume, if any do
//! S  Handover(state)         receipt with the hash over state and memory
//! T  Handover(prepared)      and so on, as the handover says
//! ```
//!
//! Either side may say `Failed` where something else was due; the handover then decides what that means. `Event` may come from the
//! target at any time, `Frames` from the source after the commit. A message of a kind that is not known here is skipped.

use super::invalid;
use ferry_model::error::Error;
use ferry_model::event::Event;
use ferry_model::facts;
use ferry_model::ids::Hash;
use ferry_model::plan::{Plan, Resource};
use ferry_model::planning::Method;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use std::io::{self, Read, Write};

/// Longest control message, bytes: a plan of tens of thousands of resources.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Longest [`Message::Chunk`], bytes.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// What is said on a control connection.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Message {
    /// Source: what do you have under these names, and what are you?
    #[n(0)]
    Ask {
        /// Resources that a decision depends on.
        #[n(0)]
        resources: Vec<Resource>,
        /// Address that the workload brings, where it has one of its own.
        #[n(1)]
        network: Option<String>,
        /// The workload's name.
        #[n(2)]
        name: String,
        /// The original goes on.
        #[n(3)]
        clone: bool,
    },
    /// Target: this.
    #[n(1)]
    Answer {
        /// Facts, holdings and refusals.
        #[n(0)]
        answer: facts::Answer,
    },
    /// Source: what the move is. A handover offer follows.
    #[n(2)]
    Begin {
        /// Presented by every page stream of this move.
        #[cbor(n(0), with = "minicbor::bytes")]
        secret: [u8; 32],
        /// Number of page streams.
        #[n(1)]
        streams: u32,
        /// How state travels.
        #[n(2)]
        method: Method,
        /// The plan.
        #[n(3)]
        plan: Plan,
        /// What the workload was asked to be (`ferry_session::shim::Spec`).
        #[n(4)]
        spec: ByteVec,
        /// The original goes on.
        #[n(5)]
        clone: bool,
        /// What CLOCK_MONOTONIC and CLOCK_BOOTTIME show to the workload when this is sent, nanoseconds. With it the target makes the
        /// ground for the workload before it takes the first files.
        #[n(6)]
        clocks: Option<(u64, u64)>,
    },
    /// A message of the handover (`ferry_model::handover::Message`).
    #[n(3)]
    Handover {
        /// Its bytes.
        #[n(0)]
        message: ByteVec,
    },
    /// Source: something long follows, in chunks.
    #[n(4)]
    Bulk {
        /// What.
        #[n(0)]
        kind: Bulk,
    },
    /// A piece of it.
    #[n(5)]
    Chunk {
        /// The bytes; at most [`CHUNK_BYTES_MAX`].
        #[n(0)]
        bytes: ByteVec,
    },
    /// Its end.
    #[n(6)]
    End {
        /// Bytes in all chunks.
        #[n(0)]
        bytes: u64,
        /// Their hash.
        #[n(1)]
        hash: Hash,
    },
    /// Target: the bulk with this hash is where it belongs.
    #[n(7)]
    Taken {
        /// Hash of what was taken.
        #[n(0)]
        hash: Hash,
    },
    /// Target: spaces exist, memory may come.
    #[n(8)]
    Ready,
    /// Source: all page streams have been acknowledged.
    #[n(9)]
    MemorySent {
        /// Hash of the memory as sent ([`super::digest::Digest`]).
        #[n(0)]
        hash: Hash,
    },
    /// Target: something happened there.
    #[n(10)]
    Event {
        /// What; its time counts from the target's `Begin`.
        #[n(0)]
        event: Event,
    },
    /// It failed here.
    #[n(11)]
    Failed {
        /// Why.
        #[n(0)]
        error: Error,
    },
    /// Nothing more will be said.
    #[n(12)]
    Bye,
    /// Source, after the commit: what was sent to the workload while it stood still. The target delivers it when the workload runs.
    #[n(40)]
    Frames {
        /// Ethernet frames, each with what the sender's kernel says about it (`struct virtio_net_hdr`) in front.
        #[n(0)]
        frames: Vec<ByteVec>,
    },
    /// Target: of the last visit of this workload it has pages, and tells which if it is asked. A source that does not know this
    /// sends all pages.
    #[n(41)]
    Holds {
        /// How many.
        #[n(0)]
        pages: u64,
    },
    /// Source: which are they? Answered by [`Bulk::Held`].
    #[n(42)]
    WhichHeld,
}

/// What a [`Message::Bulk`] announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Bulk {
    /// Files beneath the workload's root.
    #[n(0)]
    Files,
    /// Execution state.
    #[n(1)]
    State,
    // 2 was a whole image directory, which nobody sent: not to be given to anything else.
    /// Processes and mappings of the workload as it runs: what the next round of a pre-copy goes into.
    #[n(3)]
    Draft,
    /// Pages that follow after the resume: spaces with their ranges (`ferry_transfer::access::Missing`).
    #[n(4)]
    Missing,
    /// Pages of the same kind that the target has and that were written again, before the workload is stopped: it gives them back.
    #[n(5)]
    Aside,
    /// From the target: the names of the pages that it holds, [`super::rounds::held::NAME_BYTES`] each. A page is told by its place in this list.
    #[n(6)]
    Held,
}

/// Sends a message.
pub fn send(stream: &mut impl Write, message: &Message) -> io::Result<()> {
    send_limited(stream, message, MESSAGE_BYTES_MAX)?;
    stream.flush()
}

/// Receives a message. One of a kind that only a later version knows is skipped.
pub fn receive(stream: &mut impl Read) -> io::Result<Message> {
    loop {
        let bytes = receive_bytes(stream, MESSAGE_BYTES_MAX)?;
        match minicbor::decode(&bytes) {
            Ok(message) => {
                check(&message)?;
                return Ok(message);
            }
            Err(error) if error.is_unknown_variant() => {}
            Err(error) => return Err(unreadable(&error)),
        }
    }
}

/// For the fuzzer: a message in a slice, length included.
pub fn decode(bytes: &[u8]) -> io::Result<Message> {
    receive(&mut &*bytes)
}

fn check(message: &Message) -> io::Result<()> {
    match message {
        Message::Chunk { bytes } if bytes.len() > CHUNK_BYTES_MAX => {
            Err(invalid("A chunk is longer than allowed"))
        }
        _ => Ok(()),
    }
}

/// Sends any CBOR value of at most `bytes_max`.
pub fn send_limited<T: Encode<()>>(stream: &mut impl Write, message: &T, bytes_max: usize) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    minicbor::encode(message, &mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    let len = bytes.len() - 4;
    if len > bytes_max {
        return Err(invalid(format!("A message of {len} bytes is longer than the {bytes_max} allowed")));
    }
    bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
    stream.write_all(&bytes)
}

/// Receives any CBOR value of at most `bytes_max`. Memory grows with what really comes, not with what is announced.
pub fn receive_limited<T: for<'b> Decode<'b, ()>>(stream: &mut impl Read, bytes_max: usize) -> io::Result<T> {
    minicbor::decode(&receive_bytes(stream, bytes_max)?).map_err(|error| unreadable(&error))
}

fn unreadable(error: &minicbor::decode::Error) -> io::Error {
    invalid(format!("A message that cannot be read: {error}"))
}

fn receive_bytes(stream: &mut impl Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > bytes_max {
        return Err(invalid(format!("A message of {len} bytes is longer than the {bytes_max} allowed")));
    }
    let mut bytes = Vec::new();
    stream.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_read_back() {
        for message in [
            Message::Bulk { kind: Bulk::Files },
            Message::Chunk { bytes: vec![1; 1000].into() },
            Message::End { bytes: 1000, hash: Hash([3; 32]) },
            Message::Failed { error: Error::new(ferry_model::error::Kind::Unable, "No") },
            Message::Bye,
        ] {
            let mut bytes = Vec::new();
            send(&mut bytes, &message).unwrap();
            assert_eq!(decode(&bytes).unwrap(), message);
        }
    }

    #[test]
    fn a_message_of_a_later_version_is_skipped() {
        let mut bytes = Vec::new();
        // Kind 9999, with a field.
        let later = [0x82, 0x19, 0x27, 0x0f, 0x81, 0x01];
        bytes.extend((later.len() as u32).to_le_bytes());
        bytes.extend(later);
        send(&mut bytes, &Message::Bye).unwrap();
        assert_eq!(decode(&bytes).unwrap(), Message::Bye);
        // What is known and damaged is not.
        let damaged = [2, 0, 0, 0, 0x82, 0x05];
        assert!(decode(&damaged).is_err());
    }

    #[test]
    fn a_chunk_over_the_limit_is_refused() {
        let mut bytes = Vec::new();
        send(&mut bytes, &Message::Chunk { bytes: vec![0; CHUNK_BYTES_MAX + 1].into() }).unwrap();
        assert!(decode(&bytes).is_err());
    }

    #[test]
    fn an_announced_length_costs_no_memory() {
        let mut bytes = (MESSAGE_BYTES_MAX as u32).to_le_bytes().to_vec();
        bytes.push(0);
        assert_eq!(decode(&bytes).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&bytes).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            let _ = decode(&framed);
            let _ = super::super::greeting::decode(&bytes);
        }
    }
}
