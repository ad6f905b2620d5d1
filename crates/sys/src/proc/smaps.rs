//! `/proc/PID/smaps`: only the `VmFlags` of each mapping, which nothing else tells, and what is shared since a fork.
//!
//! The kernel walks all page tables for it: read it before a freeze, not in it.

use super::Malformed;
use super::maps;
use super::text::decimal;

/// Flags of a mapping, one bit for each two-letter word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u64);

const WORDS: &[&[u8; 2]] = &[
    b"rd", b"wr", b"ex", b"sh", b"mr", b"mw", b"me", b"ms", b"gd", b"pf", b"lo", b"io", b"sr", b"rr", b"dc",
    b"de", b"ac", b"nr", b"ht", b"sf", b"ar", b"wf", b"dd", b"sd", b"mm", b"hg", b"nh", b"mg", b"um", b"uw",
    b"ui", b"ss", b"sl", b"lf", b"dp", b"nl", b"gu", b"bt", b"mt", b"dw",
];

impl Flags {
    /// Whether the kernel printed the word.
    #[must_use]
    pub fn has(self, word: &[u8; 2]) -> bool {
        WORDS.iter().position(|known| *known == word).is_some_and(|at| self.0 >> at & 1 == 1)
    }

    /// With the word set.
    #[must_use]
    pub fn with(self, word: &[u8; 2]) -> Self {
        Self(self.0 | Self::bits(&[word]))
    }

    /// Whether they differ in nothing but what mprotect(2) changes, and what the kernel notes by itself.
    #[must_use]
    pub fn same_but_protection(self, other: Self) -> bool {
        let changing = Self::bits(&[b"rd", b"wr", b"ex", b"ac", b"sd", b"uw"]);
        self.0 & !changing == other.0 & !changing
    }

    fn bits(words: &[&[u8; 2]]) -> u64 {
        let place = |word: &&[u8; 2]| WORDS.iter().position(|known| known == word);
        words.iter().filter_map(place).fold(0, |bits, at| bits | 1 << at)
    }

    fn parse(words: &[u8]) -> Self {
        let set = words
            .split(|byte| *byte == b' ')
            .filter_map(|word| WORDS.iter().position(|known| known.as_slice() == word));
        Self(set.fold(0, |bits, at| bits | 1 << at))
    }
}

/// What smaps says of one mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// Its flags.
    pub flags: Flags,
    /// Bytes resident.
    pub resident: u64,
    /// Dirty bytes that another process maps too: private memory still shared since a fork.
    pub shared_dirty: u64,
    /// Anonymous bytes.
    pub anonymous: u64,
    /// Protection key.
    pub key: u32,
}

/// Parses the whole text.
pub fn parse(text: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut all: Vec<Entry> = Vec::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        // A mapping's first line begins with a lower-case hexadecimal number, the others with a capital letter.
        if line[0].is_ascii_uppercase() {
            if let Some(entry) = all.last_mut() {
                field(entry, line);
            }
            continue;
        }
        let mapping = maps::parse_line(line).ok_or_else(|| Malformed::new("smaps", "a mapping's line"))?;
        if all.len() >= maps::MAPPINGS_MAX {
            return Err(Malformed::new("smaps", "more mappings than any kernel allows"));
        }
        all.push(Entry { start: mapping.start, end: mapping.end, ..Entry::default() });
    }
    Ok(all)
}

fn field(entry: &mut Entry, line: &[u8]) {
    if let Some(words) = line.strip_prefix(b"VmFlags: ") {
        entry.flags = Flags::parse(words);
    } else if let Some(value) = line.strip_prefix(b"Rss:") {
        entry.resident = number(value).saturating_mul(1024);
    } else if let Some(value) = line.strip_prefix(b"Shared_Dirty:") {
        entry.shared_dirty = number(value).saturating_mul(1024);
    } else if let Some(value) = line.strip_prefix(b"Anonymous:") {
        entry.anonymous = number(value).saturating_mul(1024);
    } else if let Some(value) = line.strip_prefix(b"ProtectionKey:") {
        entry.key = number(value) as u32;
    }
}

fn number(value: &[u8]) -> u64 {
    decimal(value.trim_ascii_start()).map_or(0, |(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn own_stack_grows_down() {
        let pid = std::process::id() as i32;
        let all = parse(&crate::proc::read(pid, "smaps").unwrap()).unwrap();
        assert!(
            all.iter().any(|entry| entry.flags.has(b"gd") && entry.flags.has(b"wr") && entry.resident > 0)
        );
        assert!(all.iter().any(|entry| entry.flags.has(b"ex") && !entry.flags.has(b"gd")));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }
    }
}
