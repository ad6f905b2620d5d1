//! An execution state between its capture and its journey: read once, and with what only this side could add to it.

use crate::shim::envelope::Envelope;
use ferry_model::error::{Error, Kind, Result};
use ferry_transfer::access::SpaceAccess;
use ferry_transfer::engine::RangeSet;
use ferry_transfer::space::{Range, SpaceId};
use std::collections::{BTreeMap, BTreeSet};

/// Pages that are guards, of each space that was looked at.
pub(super) type Guards = BTreeMap<SpaceId, RangeSet>;

/// A captured workload.
pub(super) struct Captured {
    /// Its state, as it travels.
    pub bytes: Vec<u8>,
    /// The same, read.
    pub envelope: Envelope,
    /// Where its memory is.
    pub spaces: Vec<SpaceAccess>,
}

impl Captured {
    /// Of a workload that starts anew.
    pub fn nothing() -> Self {
        Self { bytes: Vec::new(), envelope: Envelope::default(), spaces: Vec::new() }
    }

    /// As a shim has answered.
    pub fn read((bytes, spaces): (Vec<u8>, Vec<SpaceAccess>)) -> Result<Self> {
        Ok(Self { envelope: Envelope::from_bytes(&bytes)?, bytes, spaces })
    }

    /// The shim has not looked for guards in the `tracked` spaces: these are they.
    pub fn add_guards(&mut self, tracked: &BTreeSet<SpaceId>, guards: &Guards) -> Result<()> {
        let mut some = false;
        let spaces = self.envelope.state.spaces.iter_mut();
        for space in spaces.filter(|space| tracked.contains(&SpaceId(space.id))) {
            let own = guards.get(&SpaceId(space.id)).ok_or_else(|| {
                Error::new(Kind::Unable, format!("Space {} was not looked at when it stood still", space.id))
            })?;
            let mapped = space.vmas.iter().map(|vma| (vma.start, vma.end));
            let mapped: RangeSet = mapped.map(|(start, end)| Range { start, len: end - start }).collect();
            space.guards = own.intersection(&mapped).ranges().iter().map(|r| (r.start, r.len)).collect();
            some |= !space.guards.is_empty();
        }
        // Hardly a program has any.
        if some {
            self.bytes = self.envelope.to_bytes();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_process::records::memory::{Space, Vma};

    fn captured() -> Captured {
        let mut envelope = Envelope::default();
        for id in [1, 2] {
            let vma = Vma { start: 0x1000, end: 0x9000, ..Vma::default() };
            envelope.state.spaces.push(Space { id, vmas: vec![vma], ..Space::default() });
        }
        let bytes = envelope.to_bytes();
        Captured::read((bytes, Vec::new())).unwrap()
    }

    #[test]
    fn guards_are_in_what_travels_and_only_where_memory_is() {
        let mut captured = captured();
        let tracked = BTreeSet::from([SpaceId(2)]);
        let range = |start, len| Range { start, len };
        let found = RangeSet::new(vec![range(0x3000, 0x1000), range(0x8000, 0x4000)]);
        captured.add_guards(&tracked, &Guards::from([(SpaceId(2), found)])).unwrap();
        let read = Envelope::from_bytes(&captured.bytes).unwrap();
        assert_eq!(read, captured.envelope);
        assert_eq!(read.state.spaces[0].guards, []);
        assert_eq!(read.state.spaces[1].guards, [(0x3000, 0x1000), (0x8000, 0x1000)]);
    }

    #[test]
    fn a_space_that_was_not_looked_at_is_an_error() {
        let tracked = BTreeSet::from([SpaceId(1), SpaceId(2)]);
        let guards = Guards::from([(SpaceId(1), RangeSet::default())]);
        assert!(captured().add_guards(&tracked, &guards).is_err());
    }
}
