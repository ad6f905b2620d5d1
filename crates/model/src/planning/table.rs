//! Binding by attachment: which action comes first in each of the nine cells, and what may take its place.
//!
//! The cells are those of Fuggetta, Picco and Vigna ("Understanding Code Mobility", IEEE TSE 1998) in the reading of
//! Tanenbaum and van Steen ("Distributed Systems", code migration): the more a workload insists, the less may change;
//! the faster a resource is attached, the less it may travel.

use crate::resource::{Action, Attachment, Binding};

/// Actions for one cell, the best first. Never empty.
#[must_use]
pub fn choices(binding: Binding, attachment: Attachment) -> &'static [Action] {
    use Action::{Copy, Move, Rebind, Reference};
    match (binding, attachment) {
        (Binding::Identifier, Attachment::Unattached) => &[Move, Reference],
        (Binding::Identifier, Attachment::Fastened) => &[Reference, Move],
        (Binding::Identifier, Attachment::Fixed) => &[Reference],
        (Binding::Value, Attachment::Unattached) => &[Copy, Move, Reference],
        (Binding::Value, Attachment::Fastened) => &[Reference, Copy],
        (Binding::Value, Attachment::Fixed) => &[Reference],
        (Binding::Type, Attachment::Unattached) => &[Rebind, Move, Copy],
        (Binding::Type, Attachment::Fastened) => &[Rebind, Reference, Copy],
        (Binding::Type, Attachment::Fixed) => &[Rebind, Reference],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::{Copy, Move, Rebind, Reference};
    use Attachment::{Fastened, Fixed, Unattached};
    use Binding::{Identifier, Type, Value};

    #[test]
    fn nine_cells_with_their_first_choice() {
        let first = |b, a| choices(b, a)[0];
        assert_eq!([Unattached, Fastened, Fixed].map(|a| first(Identifier, a)), [Move, Reference, Reference]);
        assert_eq!([Unattached, Fastened, Fixed].map(|a| first(Value, a)), [Copy, Reference, Reference]);
        assert_eq!([Unattached, Fastened, Fixed].map(|a| first(Type, a)), [Rebind, Rebind, Rebind]);
    }

    #[test]
    fn what_is_fixed_never_travels() {
        for binding in [Identifier, Value, Type] {
            assert!(choices(binding, Fixed).iter().all(|action| matches!(action, Reference | Rebind)));
        }
    }

    #[test]
    fn identity_is_never_copied_or_exchanged() {
        for attachment in [Unattached, Fastened, Fixed] {
            assert!(choices(Identifier, attachment).iter().all(|action| matches!(action, Move | Reference)));
        }
    }
}
