//! What is known of the flags of mappings that were looked at before, after they have changed.
//!
//! The kernel tells flags only with a walk over all page tables, so in a pause they are what was seen a moment before it. Meanwhile a heap
//! grows, a stack grows, and an allocator moves the border between what it uses and what it has reserved: it changes the protection of a
//! part, which shows in the list of mappings and changes no other flag. A border that nothing shows may come of a changed flag: then all are
//! asked about.

use ferry_sys::proc::maps::Mapping;
use ferry_sys::proc::smaps::Flags;
use std::collections::{BTreeMap, HashMap};

/// The bit of PROT_WRITE.
const WRITE: u32 = 2;

/// Flags and keys of mappings, by their bounds.
pub(crate) type Advice = HashMap<(u64, u64), (Flags, u32)>;

/// The flags of all of these mappings, which ascend, by what was seen of them; `None` when something has to be asked about.
pub(crate) fn of(seen: &Advice, maps: &[Mapping]) -> Option<Advice> {
    let mut all = seen.clone();
    let unknown = |mapping: &Mapping| {
        !mapping.name.starts_with(b"[v") && !seen.contains_key(&(mapping.start, mapping.end))
    };
    let changed: Vec<usize> = (0..maps.len()).filter(|at| unknown(&maps[*at])).collect();
    if changed.is_empty() {
        return Some(all);
    }
    let before = Before::new(seen);
    for at in changed {
        let mapping = &maps[at];
        let flags = before.grown(mapping).or_else(|| {
            let neighbours = (at.checked_sub(1).map(|at| &maps[at]), maps.get(at + 1));
            before.cut(mapping, neighbours)
        })?;
        all.insert((mapping.start, mapping.end), flags);
    }
    Some(all)
}

/// The mappings that were seen, by their first and by their last byte.
struct Before {
    starts: BTreeMap<u64, (u64, (Flags, u32))>,
    ends: HashMap<u64, u64>,
}

impl Before {
    fn new(seen: &Advice) -> Self {
        Self {
            starts: seen.iter().map(|((start, end), flags)| (*start, (*end, *flags))).collect(),
            ends: seen.keys().map(|(start, end)| (*end, *start)).collect(),
        }
    }

    /// It has grown: a heap at its end, a stack at its begin. Mappings grow only where their flags are alike.
    fn grown(&self, mapping: &Mapping) -> Option<(Flags, u32)> {
        let by_start = self.starts.get(&mapping.start).filter(|(end, _)| *end < mapping.end);
        let by_end = || {
            let start = self.ends.get(&mapping.end).filter(|start| **start > mapping.start)?;
            self.starts.get(start)
        };
        by_start.or_else(by_end).map(|(_, flags)| *flags)
    }

    /// It is made of parts of such with the same flags, and where it begins or ends in the middle of one, the next mapping shows that a
    /// protection was changed there.
    fn cut(
        &self,
        mapping: &Mapping,
        neighbours: (Option<&Mapping>, Option<&Mapping>),
    ) -> Option<(Flags, u32)> {
        let (before, after) = neighbours;
        let other = |neighbour: Option<&Mapping>, touches: fn(&Mapping) -> u64, at: u64| {
            neighbour.is_some_and(|next| touches(next) == at && next.prot != mapping.prot)
        };
        let begins =
            self.starts.contains_key(&mapping.start) || other(before, |next| next.end, mapping.start);
        let ends = self.ends.contains_key(&mapping.end) || other(after, |next| next.start, mapping.end);
        let (_, (first_end, first)) = self.starts.range(..=mapping.start).next_back()?;
        if !(begins && ends) || *first_end <= mapping.start {
            return None;
        }
        let mut end = *first_end;
        while end < mapping.end {
            let (next_end, next) = self.starts.get(&end)?;
            if !next.0.same_but_protection(first.0) || next.1 != first.1 {
                return None;
            }
            end = *next_end;
        }
        let (flags, key) = *first;
        // What becomes writable begins to count as memory that is promised.
        let counts = mapping.prot & WRITE != 0 && !mapping.shared && !flags.has(b"nr");
        Some((if counts { flags.with(b"ac") } else { flags }, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, end: u64, prot: u32) -> Mapping {
        Mapping { start, end, prot, ..Mapping::default() }
    }

    fn seen(bounds: &[(u64, u64)]) -> Advice {
        bounds.iter().map(|bounds| (*bounds, (Flags::default(), 0))).collect()
    }

    #[test]
    fn what_has_grown_keeps_its_flags_and_what_was_split_is_asked_about() {
        let advice = seen(&[(0x1000, 0x3000), (0x8000, 0x9000), (0xa000, 0xd000)]);
        assert!(of(&advice, &[mapping(0x1000, 0x5000, 3), mapping(0x7000, 0x9000, 3)]).is_some());
        assert!(of(&advice, &[mapping(0xa000, 0xb000, 3), mapping(0xb000, 0xd000, 3)]).is_none());
        assert!(of(&advice, &[mapping(0x6000, 0x7000, 3)]).is_none(), "it is new");
    }

    #[test]
    fn a_border_between_protections_may_move() {
        let advice = seen(&[(0x1000, 0x3000), (0x3000, 0x9000)]);
        let moved = [mapping(0x1000, 0x4000, 3), mapping(0x4000, 0x9000, 0)];
        assert!(of(&advice, &moved).unwrap().contains_key(&(0x4000, 0x9000)));
        // What is tracked and what is not yet do not become one.
        let in_pieces = [mapping(0x1000, 0x3000, 3), mapping(0x3000, 0x4000, 3), mapping(0x4000, 0x9000, 0)];
        let known = of(&advice, &in_pieces).unwrap();
        assert!(known[&(0x3000, 0x4000)].0.has(b"ac") && !known[&(0x4000, 0x9000)].0.has(b"ac"));
        // A hole is no border.
        assert!(of(&advice, &[mapping(0x1000, 0x3000, 3), mapping(0x4000, 0x9000, 0)]).is_none());
    }
}
