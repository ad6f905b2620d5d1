//! Who is who in a fleet: its own authority, the certificates of nodes and operators, join tokens, revocation.
//!
//! Restoring a workload is running code as root, so nothing is believed that a certificate of this fleet's authority
//! does not say. A certificate names a node or an operator, and its usage; the list of members says which certificates still hold.

pub mod authority;
pub mod certificate;
pub mod identity;
pub mod join;
pub mod members;
pub mod operator;
pub mod roster;
pub mod tls;
pub mod token;

use authority::Authority;
use certificate::Usage;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use identity::Identity;
use members::{Member, Members};
use std::path::Path;

pub use join::join;

/// Makes a fleet in the state directory `state`: its authority, and this host, `name`, as its first member.
///
/// # Errors
/// `Refused` if the host already belongs to a fleet; `Unable` if the state directory cannot be written.
pub fn init(state: &Path, name: &HostName) -> Result<Identity> {
    if Identity::load(state)?.is_some() {
        return Err(Error::new(Kind::Refused, format!("{} already belongs to a fleet", state.display()))
            .hint("`ferry node status` says which; another state directory (--state) makes another node"));
    }
    let authority = Authority::create(state)?;
    let key = certificate::new_key()?;
    let signed = authority.sign(&key, name, Usage::Authority)?;
    let member = Member {
        name: name.clone(),
        address: None,
        serial: certificate::read(&signed)?.serial,
        removed: false,
    };
    Members { version: 1, authority: name.clone(), list: vec![member], operators: Vec::new() }.save(state)?;
    Identity::create(state, &key.serialize_pem(), &signed, authority.certificate())
}

/// Seconds since 1970.
#[must_use]
pub fn now_unix() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Fills `bytes` from the kernel's random numbers.
pub fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|cause| Error::new(Kind::Unable, format!("The kernel gives no random numbers: {cause}")))
}
