//! What was kept of one workload, for the day it comes back.

use super::{NAMES, PAGES};
use ferry_transfer::space::PAGE_SIZE;
use ferry_transfer::wire::rounds::held::{NAME_BYTES, OFFER_PAGES_MAX};
use ferry_transfer::wire::rounds::{Held, PageName};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// One visit.
#[derive(Debug)]
pub struct Visit {
    pages: File,
    names: Vec<u8>,
    spoilt: AtomicBool,
}

impl Visit {
    /// Opens what is kept in a directory.
    ///
    /// # Errors
    /// `NotFound` if there is none; `InvalidData` if its files do not belong together.
    pub(super) fn open(place: &Path) -> io::Result<Self> {
        let pages = File::open(place.join(PAGES))?;
        let mut names = Vec::new();
        let most = OFFER_PAGES_MAX as u64 * NAME_BYTES as u64;
        File::open(place.join(NAMES))?.take(most + 1).read_to_end(&mut names)?;
        let count = names.len() as u64 / NAME_BYTES as u64;
        let fits = names.len() as u64 <= most && names.len().is_multiple_of(NAME_BYTES);
        if !fits || pages.metadata()?.len() != count * PAGE_SIZE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "Its pages and their names do not match"));
        }
        Ok(Self { pages, names, spoilt: AtomicBool::new(false) })
    }

    /// The names of all of its pages, one after the other.
    #[must_use]
    pub fn names(&self) -> &[u8] {
        &self.names
    }

    /// How many pages it has.
    #[must_use]
    pub fn pages(&self) -> u64 {
        (self.names.len() / NAME_BYTES) as u64
    }

    /// Whether something in it was found to be another thing than was kept: then it is of no use.
    #[must_use]
    pub fn is_spoilt(&self) -> bool {
        self.spoilt.load(Ordering::Relaxed)
    }
}

impl Held for Visit {
    fn read(&self, position: u32, page: &mut [u8]) -> io::Result<()> {
        let name = self.names.chunks_exact(NAME_BYTES).nth(position as usize);
        let name = name.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("No page {position} is kept of its last visit"),
            )
        })?;
        let read = self.pages.read_exact_at(page, u64::from(position) * PAGE_SIZE);
        if read.is_ok() && PageName::of(page).0 == name {
            return Ok(());
        }
        self.spoilt.store(true, Ordering::Relaxed);
        let why = read.err().map_or_else(String::new, |error| format!(": {error}"));
        Err(io::Error::other(format!("What was kept of its last visit is damaged{why}")))
    }
}
