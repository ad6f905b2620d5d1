//! What the pager knows, where no death takes it along: a snapshot in a memory file, and the events since then in the log.
//!
//! There are two snapshots as there are two logs, and one word says which of each counts: a new snapshot is written whole before it does.
//! Pages that were placed since the snapshot are still absent in it; they are asked for again, and are there already.

use super::standing::Standing;
use ferry_sys::userfaultfd::{EventLog, What};
use ferry_transfer::access::Missing;
use ferry_transfer::pager::{Absent, Piece};
use ferry_transfer::space::{Range, SpaceId};
use ferry_transfer::wire::demand::{Delivered, PageSum};
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Memory files of a ledger.
pub(super) const FILES: usize = 3;

/// Snapshot and log.
pub(super) struct Ledger {
    pub(super) log: EventLog,
    log_file: OwnedFd,
    snapshots: [File; 2],
}

/// All that a pager knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    /// The userfaultfds by their numbers in the table, and what is absent under each.
    pub(super) residents: Vec<(i32, Absent)>,
    pub(super) delivered: Delivered,
}

#[derive(Encode, Decode)]
struct Snapshot {
    #[n(0)]
    residents: Vec<Resident>,
    #[n(1)]
    delivered: Vec<(SpaceId, Vec<Range>)>,
    #[n(2)]
    sum: ByteArray<{ PageSum::BYTES }>,
}

#[derive(Encode, Decode)]
struct Resident {
    #[n(0)]
    fd: i32,
    /// Of pages that are missing elsewhere than where they come from: where, bytes, their space, their address there.
    #[n(1)]
    pieces: Vec<(u64, u64, SpaceId, u64)>,
    /// The others. An older Ferry named all of them above.
    #[n(2)]
    in_place: Option<Vec<Missing>>,
}

impl Resident {
    fn of(fd: i32, absent: &Absent) -> Self {
        let (mut pieces, mut in_place) = (Vec::new(), Vec::<Missing>::new());
        for Piece { at, space, from } in absent.pieces() {
            if at.start != from {
                pieces.push((at.start, at.len, space, from));
                continue;
            }
            match in_place.last_mut().filter(|last| last.space == space) {
                Some(last) => last.ranges.push(at),
                None => in_place.push(Missing { space, ranges: vec![at] }),
            }
        }
        Self { fd, pieces, in_place: Some(in_place) }
    }

    fn absent(self) -> Absent {
        let elsewhere = self.pieces.into_iter();
        let elsewhere =
            elsewhere.map(|(start, len, space, from)| Piece { at: Range { start, len }, space, from });
        let in_place = self.in_place.into_iter().flatten().flat_map(|Missing { space, ranges }| {
            ranges.into_iter().map(move |at| Piece { at, space, from: at.start })
        });
        in_place.chain(elsewhere).collect()
    }
}

impl Ledger {
    pub(super) fn create(known: &Known) -> io::Result<Self> {
        let (log, log_file) = EventLog::create()?;
        let file = || rustix::fs::memfd_create("ferry-pager", MemfdFlags::CLOEXEC).map(File::from);
        let ledger = Self { log, log_file, snapshots: [file()?, file()?] };
        ledger.write(known)?;
        Ok(ledger)
    }

    /// The one in these files, in the order of [`Self::files`].
    pub(super) fn open(files: Vec<OwnedFd>) -> io::Result<Self> {
        let [log_file, first, second] =
            <[OwnedFd; FILES]>::try_from(files).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let log = EventLog::open(log_file.as_fd())?;
        Ok(Self { log, log_file, snapshots: [first.into(), second.into()] })
    }

    pub(super) fn files(&self) -> [BorrowedFd<'_>; FILES] {
        [self.log_file.as_fd(), self.snapshots[0].as_fd(), self.snapshots[1].as_fd()]
    }

    pub(super) fn standing(&self) -> Standing<'_> {
        Standing(&self.log)
    }

    /// Writes down what all events so far have come to.
    pub(super) fn write(&self, known: &Known) -> io::Result<()> {
        let snapshot = Snapshot {
            residents: known.residents.iter().map(|(fd, absent)| Resident::of(*fd, absent)).collect(),
            delivered: known
                .delivered
                .pages
                .iter()
                .map(|(space, pages)| (*space, pages.ranges().collect()))
                .collect(),
            sum: known.delivered.sum.to_bytes().into(),
        };
        let bytes = minicbor::to_vec(&snapshot).map_err(|e| io::Error::other(e.to_string()))?;
        let file = &self.snapshots[1 - self.log.active()];
        file.set_len(0)?;
        file.write_all_at(&bytes, 0)?;
        self.log.switch();
        Ok(())
    }

    /// What whoever read last knew.
    pub(super) fn read(&self) -> io::Result<Known> {
        let file = &self.snapshots[self.log.active()];
        let mut bytes = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let snapshot: Snapshot = minicbor::decode(&bytes)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("What the pager knew: {e}")))?;
        let mut known = Known {
            residents: snapshot.residents.into_iter().map(|each| (each.fd, each.absent())).collect(),
            delivered: Delivered {
                pages: snapshot
                    .delivered
                    .into_iter()
                    .map(|(space, ranges)| (space, ranges.into_iter().collect()))
                    .collect(),
                sum: PageSum::from_bytes(&snapshot.sum),
            },
        };
        for noted in self.log.noted() {
            known.take_in(noted.fd, noted.what);
        }
        Ok(known)
    }
}

impl Known {
    fn take_in(&mut self, fd: i32, what: What) {
        let Some(at) = self.residents.iter().position(|(number, _)| *number == fd) else { return };
        let absent = &mut self.residents[at].1;
        match what {
            What::Fork(child) => {
                let absent = absent.clone();
                // The number was used before, by one that has ended.
                self.residents.retain(|(number, _)| *number != child);
                self.residents.push((child, absent));
            }
            What::Remap(from, to, len) => absent.remap(from, to, len),
            What::Forget(start, end) => absent.resolve(start, end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    #[test]
    fn what_is_known_is_read_back_and_events_are_added() {
        let absent = Absent::new(SpaceId(1), &[Range { start: 10 * PAGE, len: 10 * PAGE }]);
        let mut delivered = Delivered::default();
        delivered.sum.add(SpaceId(1), PAGE, &[7; PAGE as usize]);
        delivered.pages.insert(SpaceId(1), [Range { start: PAGE, len: PAGE }].into_iter().collect());
        let known = Known { residents: vec![(5, absent.clone()), (6, Absent::default())], delivered };
        let ledger = Ledger::create(&known).unwrap();
        assert_eq!(ledger.read().unwrap(), known);
        let files = ledger.files().map(|file| file.try_clone_to_owned().unwrap());
        let mut later = known.clone();
        later.take_in(5, What::Forget(12 * PAGE, 13 * PAGE));
        later.take_in(5, What::Fork(9));
        later.take_in(5, What::Remap(10 * PAGE, 50 * PAGE, PAGE));
        later.take_in(9, What::Forget(0, 15 * PAGE));
        later.take_in(6, What::Fork(6));
        let left: Vec<u64> = later.residents.iter().map(|(_, absent)| absent.bytes() / PAGE).collect();
        assert_eq!(left, [9, 5, 0]);
        ledger.write(&later).unwrap();
        assert_eq!(Ledger::open(files.into()).unwrap().read().unwrap(), later);
    }
}
