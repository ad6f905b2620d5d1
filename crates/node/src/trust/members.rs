//! The list of members: who belongs to the fleet, where each is reached, which operators may ask its nodes, and whose
//! certificates were revoked.
//!
//! The authority's node writes it; every other node takes a newer version from that node only. A certificate that is
//! not in the list, or marked as removed there, opens nothing.

use crate::files;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use std::path::Path;

/// Most members in a list that a peer sends.
pub const MEMBERS_MAX: usize = 10_000;

/// One member, past or present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: HostName,
    /// Where it is reached, once it has said so.
    pub address: Option<String>,
    /// Number of its certificate.
    pub serial: Vec<u8>,
    /// Whether it was put out.
    pub removed: bool,
}

/// One operator, past or present: a person or a program that uses the API of the fleet's nodes from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Its name.
    pub name: HostName,
    /// Number of its certificate.
    pub serial: Vec<u8>,
    /// When the certificate ends, seconds since 1970.
    pub expires_unix: u64,
    /// Whether it was put out.
    pub removed: bool,
}

/// The list, with a version that grows with every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Version.
    pub version: u64,
    /// The node that holds the authority's key.
    pub authority: HostName,
    /// Everybody who ever was a member. A name may stand there twice: removed, and let in again.
    pub list: Vec<Member>,
    /// Everybody who ever was an operator, in the same way.
    pub operators: Vec<Operator>,
}

/// As it stands on disk and on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MembersRecord {
    #[n(0)]
    version: u64,
    #[n(1)]
    authority: HostName,
    #[n(2)]
    list: Vec<MemberRecord>,
    #[n(3)]
    operators: Option<Vec<OperatorRecord>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct OperatorRecord {
    #[n(0)]
    name: HostName,
    #[n(1)]
    serial: ByteVec,
    #[n(2)]
    expires_unix: u64,
    #[n(3)]
    removed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct MemberRecord {
    #[n(0)]
    name: HostName,
    #[n(1)]
    address: Option<String>,
    #[n(2)]
    serial: ByteVec,
    #[n(3)]
    removed: bool,
}

impl Members {
    /// Whether the certificate with this number is a member's.
    #[must_use]
    pub fn admits(&self, name: &HostName, serial: &[u8]) -> bool {
        self.list.iter().any(|member| !member.removed && member.name == *name && member.serial == serial)
    }

    /// Whether the certificate with this number is an operator's.
    #[must_use]
    pub fn admits_operator(&self, name: &HostName, serial: &[u8]) -> bool {
        self.operators.iter().any(|one| !one.removed && one.name == *name && one.serial == serial)
    }

    /// Operators whose certificates still hold, at `now_unix` seconds since 1970.
    pub fn present_operators(&self, now_unix: u64) -> impl Iterator<Item = &Operator> {
        self.operators.iter().filter(move |one| !one.removed && one.expires_unix > now_unix)
    }

    /// The present member of that name.
    #[must_use]
    pub fn find(&self, name: &HostName) -> Option<&Member> {
        self.list.iter().find(|member| !member.removed && member.name == *name)
    }

    /// Whether somebody has this name now, as a host or as an operator: the two are put out by the same word.
    #[must_use]
    pub fn taken(&self, name: &HostName, now_unix: u64) -> bool {
        self.find(name).is_some() || self.present_operators(now_unix).any(|operator| operator.name == *name)
    }

    /// Everybody who is a member now, by name.
    pub fn present(&self) -> impl Iterator<Item = &Member> {
        self.list.iter().filter(|member| !member.removed)
    }

    /// The list in the state directory, if there is one.
    pub fn load(state: &Path) -> Result<Option<Self>> {
        let path = state.join("trust/members");
        let Some(bytes) = files::read_if_there(&path)? else { return Ok(None) };
        let record: MembersRecord = minicbor::decode(&bytes).map_err(|cause| {
            Error::from_source(Kind::Unable, &cause).context(format!("{} is damaged", path.display()))
        })?;
        Ok(Some(record.into()))
    }

    /// Puts the list into the state directory, durably.
    pub fn save(&self, state: &Path) -> Result<()> {
        let bytes = minicbor::to_vec(MembersRecord::from(self))
            .map_err(|cause| Error::from_source(Kind::Bug, &cause))?;
        files::make_private_dir(&state.join("trust"))?;
        files::write_durably(&state.join("trust/members"), &bytes)
    }
}

impl From<&Members> for MembersRecord {
    fn from(members: &Members) -> Self {
        let record = |member: &Member| MemberRecord {
            name: member.name.clone(),
            address: member.address.clone(),
            serial: member.serial.clone().into(),
            removed: member.removed,
        };
        let operator = |one: &Operator| OperatorRecord {
            name: one.name.clone(),
            serial: one.serial.clone().into(),
            expires_unix: one.expires_unix,
            removed: one.removed,
        };
        Self {
            version: members.version,
            authority: members.authority.clone(),
            list: members.list.iter().map(record).collect(),
            operators: Some(members.operators.iter().map(operator).collect()),
        }
    }
}

impl From<MembersRecord> for Members {
    fn from(record: MembersRecord) -> Self {
        let member = |record: MemberRecord| Member {
            name: record.name,
            address: record.address,
            serial: record.serial.into(),
            removed: record.removed,
        };
        let list = record.list.into_iter().take(MEMBERS_MAX).map(member).collect();
        let operator = |record: OperatorRecord| Operator {
            name: record.name,
            serial: record.serial.into(),
            expires_unix: record.expires_unix,
            removed: record.removed,
        };
        let operators = record.operators.unwrap_or_default();
        let operators = operators.into_iter().take(MEMBERS_MAX).map(operator).collect();
        Self { version: record.version, authority: record.authority, list, operators }
    }
}
