//! What a capture hands to the restore of another host: the state of the tree, and what only a shim knows.

use super::protocol::Exit;
use ferry_model::error::{Error, Kind, Result};
use ferry_network::Identity;
use ferry_process::records::State;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Envelope {
    /// Tasks, memory, descriptors, capsule.
    #[n(0)]
    pub state: State,
    /// First program: its pid inside.
    #[n(1)]
    pub first: i32,
    /// How it ended, if it has and others go on.
    #[n(2)]
    pub exit: Option<Exit>,
    /// Its network identity, where it has one: with routes and neighbours as they were.
    #[n(3)]
    pub network: Option<Identity>,
    /// What was typed on its terminal, and did not fit into the terminal's own buffer.
    #[n(4)]
    pub typed: Option<ByteVec>,
    /// Which process id had been given last when it was looked at: whoever finds the same in two looks knows that nobody was born in
    /// between. None: not known.
    #[n(5)]
    pub last_pid: Option<i32>,
}

impl Envelope {
    /// As bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        minicbor::to_vec(self).unwrap_or_default()
    }

    /// Reads it back.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let refused =
            |why: String| Error::new(Kind::Refused, format!("The captured state is unreadable: {why}"));
        let envelope: Self = minicbor::decode(bytes).map_err(|e| refused(e.to_string()))?;
        if envelope.state.version > ferry_process::records::VERSION {
            return Err(refused("it was written by a newer version of Ferry".into()));
        }
        Ok(envelope)
    }
}
