//! The network identity of a workload, by the network crate's words.

use super::spec::{Network, Spec};
use ferry_model::error::{Error, Kind, Result};
use ferry_process::capsule::Capsule;

pub(super) fn attach(_: &Capsule, spec: &Spec, _: &Network) -> Result<()> {
    Err(Error::new(Kind::Refused, format!("{} asks for an address of its own, which this build cannot give", spec.name)))
}

pub(super) fn lock(_: &Capsule, _: &Spec, _: &Network) -> Result<()> {
    Ok(())
}

pub(super) fn unlock(_: &Capsule, _: &Spec, _: &Network) -> Result<()> {
    Ok(())
}

pub(super) fn detach(_: &Capsule, _: &Spec, _: &Network) -> Result<()> {
    Ok(())
}
