//! Identities. Each is a type of its own, so that an epoch cannot be passed where a move is meant.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                parse_hex16(text.strip_prefix($prefix).unwrap_or(text)).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id128!(
    /// A workload, for as long as it lives, on whatever host. A clone gets a new one.
    WorkloadId,
    "w-"
);
id128!(
    /// One attempt to move one workload.
    MoveId,
    "m-"
);
id128!(
    /// One boot of one host (`/proc/sys/kernel/random/boot_id`). After a reboot, frozen copies are gone.
    BootId,
    "b-"
);

/// How often a workload has changed hands. Grows by one with each change of owner, or when a move is fenced off.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Encode, Decode, Serialize, Deserialize,
)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct Epoch(#[n(0)] pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A host's name, as `ferry host ls` prints it: what every `--to` and `--node` accepts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[cbor(transparent)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(#[n(0)] String);

impl HostName {
    /// Longest name accepted: a DNS label.
    pub const LENGTH_MAX: usize = 63;

    /// Checks that `name` is a DNS label: letters, digits and inner hyphens.
    pub fn new(name: impl Into<String>) -> Result<Self, BadId> {
        let name = name.into();
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
        let fits = (1..=Self::LENGTH_MAX).contains(&name.len())
            && name.chars().all(inner)
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric());
        if fits { Ok(Self(name)) } else { Err(BadId::HostName) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HostName {
    type Error = BadId;
    fn try_from(name: String) -> Result<Self, BadId> {
        Self::new(name)
    }
}

impl FromStr for HostName {
    type Err = BadId;
    fn from_str(name: &str) -> Result<Self, BadId> {
        Self::new(name)
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A BLAKE3 hash of 32 bytes: of a state, a chunk, a file, a manifest.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct Hash(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl Hash {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Hash {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bytes = parse_hex(text)?;
        bytes.try_into().map(Self).map_err(|_| BadId::Hex)
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a text is not an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// Not the hexadecimal digits expected.
    #[error("not an identifier: hexadecimal digits of the right number are expected")]
    Hex,
    /// Not a host name.
    #[error(
        "not a host name: 1 to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit"
    )]
    HostName,
}

fn parse_hex(text: &str) -> Result<Vec<u8>, BadId> {
    if !text.len().is_multiple_of(2) || text.len() > 128 || !text.is_ascii() {
        return Err(BadId::Hex);
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| BadId::Hex))
        .collect()
}

fn parse_hex16(text: &str) -> Result<[u8; 16], BadId> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    parse_hex(&digits)?.try_into().map_err(|_| BadId::Hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        let id = WorkloadId([7; 16]);
        assert_eq!(id.to_string().parse::<WorkloadId>(), Ok(id));
        assert_eq!("w-12".parse::<WorkloadId>(), Err(BadId::Hex));
        let hash = Hash::of(b"ferry");
        assert_eq!(hash.to_string().parse::<Hash>(), Ok(hash));
    }

    #[test]
    fn host_names_are_labels() {
        assert!(HostName::new("node-1").is_ok());
        for bad in ["", "-a", "a-", "a/b", "a b", &"x".repeat(64)] {
            assert_eq!(HostName::new(bad), Err(BadId::HostName), "{bad:?}");
        }
    }
}
