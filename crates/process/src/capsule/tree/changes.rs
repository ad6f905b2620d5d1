//! Sending what has changed in a tree since it was last sent, as one more stream of the same kind.

use super::entry::Kind;
use super::index::{Changes, Index, parent};
use super::pack::{One, Packer, has_vanished, open};
use super::{Error, Limits, Totals};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::OFlags;
use std::io::Write;

/// Writes `changes` of the tree beneath `root` to `out`: what has gone, then what is new or different. `crossing`: the names may lie
/// beyond mount points. With `in_use` what vanishes meanwhile is left out; `now`, the index that the changes lead to, learns what was
/// sent, and forgets what was not.
///
/// # Errors
/// When a file cannot be read or the stream not written, or `limits` are passed.
pub fn pack_changes(
    root: impl AsFd,
    changes: &Changes,
    now: &mut Index,
    crossing: bool,
    in_use: bool,
    out: &mut dyn Write,
    limits: &Limits,
) -> Result<Totals, Error> {
    let mut packer = Packer::begin(out, limits, in_use)?;
    for path in &changes.gone {
        packer.gone(path)?;
    }
    let mut here: Option<(&[u8], OwnedFd)> = None;
    for path in &changes.changed {
        if path.is_empty() {
            packer.root(root.as_fd())?;
            continue;
        }
        let directory = parent(path);
        // What is in a directory that was left out cannot be put anywhere.
        if !now.has(directory, Kind::Directory) {
            now.left(path);
            continue;
        }
        if here.as_ref().is_none_or(|(open, _)| *open != directory) {
            let place = if directory.is_empty() { b"." } else { directory };
            here = match open(root.as_fd(), place, OFlags::RDONLY | OFlags::DIRECTORY, crossing) {
                Ok(opened) => Some((directory, opened)),
                Err(error) if in_use && has_vanished(&error) => None,
                Err(error) => return Err(super::pack::at("open", directory)(error)),
            };
        }
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let one = match &here {
            Some((_, opened)) => packer.one(opened.as_fd(), name, path, crossing)?,
            None => One::Left,
        };
        match one {
            One::Left => {
                // What an earlier stream has put there goes too.
                packer.gone(path)?;
                now.left(path);
            }
            One::Sent(content) => now.sent(path, content, packer.latest),
            One::Directory(_) => now.sent(path, None, packer.latest),
        }
    }
    packer.end()
}
