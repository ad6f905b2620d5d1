//! The hash of the facts that a plan rests on: the same as long as the same plan would come out.
//!
//! What changes by itself while a workload runs (how much memory it has touched, how much is free) is left out, or
//! no plan file could ever be executed.

use super::Options;
use crate::facts::{Answer, HostFacts};
use crate::ids::Hash;
use crate::plan::{Inventory, Resource};

/// Hashes what must not have changed between `ferry plan -o` and `ferry move --plan`.
#[must_use]
pub fn facts_hash(inventory: &Inventory, answer: &Answer, options: &Options) -> Hash {
    let mut resources: Vec<Resource> = inventory.resources.iter().map(settled).collect();
    resources.sort_by(|a, b| (&a.sort, &a.name, holder(a)).cmp(&(&b.sort, &b.name, holder(b))));
    let mut holdings = answer.holdings.clone();
    holdings.sort_by(|a, b| (&a.sort, &a.name).cmp(&(&b.sort, &b.name)));
    // What is done where rounds do not help is an option of the move: a plan names what the default of it may come to.
    let options = Options { may_switch: false, ..options.clone() };
    let facts = (
        inventory.workload,
        host(&inventory.facts),
        resources,
        host(&answer.facts),
        holdings,
        &answer.refusals,
        options,
    );
    let mut bytes = Vec::new();
    // Encoding into a vector has no way to fail: its error type has no values.
    let Ok(()) = minicbor::encode(facts, &mut bytes)
        .map_err(|_: minicbor::encode::Error<std::convert::Infallible>| ())
    else {
        return Hash::of(&bytes);
    };
    Hash::of(&bytes)
}

fn holder(resource: &Resource) -> (i32, i32) {
    resource.holder.map_or((0, 0), |holder| (holder.pid, holder.fd.unwrap_or(-1)))
}

/// Memory and files that are written to change size all the time; that they are there does not.
fn settled(resource: &Resource) -> Resource {
    Resource { bytes: if resource.hash.is_some() { resource.bytes } else { 0 }, ..resource.clone() }
}

fn host(facts: &HostFacts) -> HostFacts {
    HostFacts { memory_available_bytes: 0, disk_available_bytes: 0, ..facts.clone() }
}
