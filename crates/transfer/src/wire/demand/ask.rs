//! The target: what it wants to say on one stream, and what has come. Never waits: the pager's loop carries the bytes.

use super::super::invalid;
use super::super::rounds::frame::{
    self, ENTRY_BYTES, Frame, HEADER_BYTES, Header, RANGES_MAX, read_table, write_table,
};
use crate::engine::RangeSet;
use crate::space::{Range, SpaceId};
use ferry_model::ids::Hash;
use std::collections::VecDeque;
use std::io;
use zerocopy::IntoBytes;

/// What the source has answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Pages.
    Pages {
        /// Of which space.
        space: SpaceId,
        /// Where they are.
        ranges: Vec<Range>,
        /// Their content, one range after the other.
        content: &'a [u8],
    },
    /// Pages that are zero.
    Zero {
        /// Of which space.
        space: SpaceId,
        /// Where they are.
        ranges: Vec<Range>,
    },
    /// It comes to the same hash.
    Agreed,
}

/// One stream to the source.
#[derive(Debug, Default)]
pub struct Asker {
    /// What is to be written, and how much of it was.
    out: Vec<u8>,
    written: usize,
    /// What has come, and how much of it was read.
    came: Vec<u8>,
    read: usize,
    unpacked: Vec<u8>,
    said: u64,
    heard: u64,
    /// What was asked for and has not come, in the order of the asks.
    asked: VecDeque<(SpaceId, RangeSet)>,
    awaited_bytes: u64,
    awaits_agreement: bool,
}

impl Asker {
    /// Asks for pages of one space. The order of `ranges` is that of the answers.
    ///
    /// # Errors
    /// Something in `ranges` is no page.
    pub fn ask(&mut self, space: SpaceId, ranges: &[Range], urgent: bool) -> io::Result<()> {
        // A table ascends: where the order is another one, several asks make it.
        for part in ranges.chunk_by(|one, next| one.end() <= next.start) {
            for part in part.chunks(RANGES_MAX) {
                self.table(&Frame::Ask { space, ranges: part.len(), urgent }, part)?;
                self.awaited_bytes += part.iter().map(|range| range.len).sum::<u64>();
                self.asked.push_back((space, RangeSet::new(part.to_vec())));
            }
        }
        Ok(())
    }

    /// Says that nothing is missing any more: `pages` are what was delivered, and `hash` is theirs.
    ///
    /// # Errors
    /// Something in `pages` is no page.
    pub fn all_in(&mut self, pages: &[(SpaceId, RangeSet)], hash: Hash) -> io::Result<()> {
        for (space, ranges) in pages {
            for part in ranges.ranges().chunks(RANGES_MAX) {
                self.table(&Frame::Have { space: *space, ranges: part.len() }, part)?;
            }
        }
        self.out.extend_from_slice(Header::new(&Frame::AllIn, 0).as_bytes());
        self.out.extend_from_slice(&hash.0);
        self.awaits_agreement = true;
        Ok(())
    }

    fn table(&mut self, frame: &Frame, ranges: &[Range]) -> io::Result<()> {
        self.out.extend_from_slice(Header::new(frame, self.said).as_bytes());
        self.said += 1;
        write_table(ranges, &mut self.out)
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        &self.out[self.written..]
    }

    /// So many of them were written.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= self.out.len() {
            self.out.clear();
            self.written = 0;
        }
    }

    /// Bytes that were asked for and have not come.
    #[must_use]
    pub fn awaited_bytes(&self) -> u64 {
        self.awaited_bytes
    }

    /// Takes what has come, as much or as little as it is.
    pub fn came(&mut self, bytes: &[u8]) {
        if self.read == self.came.len() {
            self.came.clear();
            self.read = 0;
        }
        self.came.extend_from_slice(bytes);
    }

    /// Whether an answer is here whole.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn has_answer(&self) -> io::Result<bool> {
        let rest = &self.came[self.read..];
        if rest.len() < HEADER_BYTES {
            return Ok(false);
        }
        let behind = match frame::header(rest, self.heard)? {
            Frame::Pages { ranges, body, .. } => ranges * ENTRY_BYTES + body,
            Frame::Zero { ranges, .. } => ranges * ENTRY_BYTES,
            _ => 0,
        };
        Ok(rest.len() >= HEADER_BYTES + behind)
    }

    /// The next answer that is here whole.
    ///
    /// # Errors
    /// It is damaged, or nobody asked for it: the stream is good for nothing any more.
    pub fn answer(&mut self) -> io::Result<Option<Answer<'_>>> {
        let rest = &self.came[self.read..];
        if rest.len() < HEADER_BYTES {
            self.compact();
            return Ok(None);
        }
        let frame = frame::header(rest, self.heard)?;
        let (space, ranges, bytes, body, compressed) = match frame {
            Frame::Pages { space, ranges, bytes, body, compressed } => {
                (space, ranges, bytes, body, compressed)
            }
            Frame::Zero { space, ranges } => (space, ranges, 0, 0, false),
            Frame::Agreed if self.awaits_agreement => {
                self.awaits_agreement = false;
                self.read += HEADER_BYTES;
                return Ok(Some(Answer::Agreed));
            }
            other => return Err(invalid(format!("{other:?} where pages were due"))),
        };
        let table = ranges * ENTRY_BYTES;
        let whole = HEADER_BYTES + table + body;
        if rest.len() < whole {
            self.compact();
            return Ok(None);
        }
        let (ranges, sum) = read_table(&rest[HEADER_BYTES..HEADER_BYTES + table])?;
        if bytes > 0 && sum != bytes as u64 {
            return Err(invalid(format!("Ranges of {sum} bytes for {bytes}")));
        }
        self.heard += 1;
        settle(&mut self.asked, space, &ranges)?;
        self.awaited_bytes -= sum;
        let begin = self.read + HEADER_BYTES + table;
        self.read += whole;
        if bytes == 0 {
            return Ok(Some(Answer::Zero { space, ranges }));
        }
        let packed = &self.came[begin..begin + body];
        if !compressed {
            return Ok(Some(Answer::Pages { space, ranges, content: packed }));
        }
        self.unpacked.resize(bytes, 0);
        frame::unpack(packed, &mut self.unpacked)?;
        Ok(Some(Answer::Pages { space, ranges, content: &self.unpacked }))
    }

    /// What was read makes room before more comes.
    fn compact(&mut self) {
        if self.read > 0 {
            self.came.drain(..self.read);
            self.read = 0;
        }
    }
}

/// Takes what has come off what was asked for: an answer belongs to the first ask that is not whole.
fn settle(asked: &mut VecDeque<(SpaceId, RangeSet)>, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
    let came = RangeSet::new(ranges.to_vec());
    let nobody = || {
        let first = ranges.first().map_or(0, |range| range.start);
        invalid(format!("{} bytes at {first:#x} of space {} that nobody asked for", came.bytes(), space.0))
    };
    let (wanted_of, wanted) = asked.front_mut().ok_or_else(nobody)?;
    if *wanted_of != space || !came.difference(wanted).is_empty() {
        return Err(nobody());
    }
    *wanted = wanted.difference(&came);
    if wanted.is_empty() {
        asked.pop_front();
    }
    Ok(())
}
