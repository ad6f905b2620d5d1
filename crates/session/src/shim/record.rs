//! What a shim keeps on disk: enough for its successor, or for a restarted node, to know what the workload's directory holds.
//!
//! Written before and after each change of phase, atomically: a new file, synced, renamed over the old one. Only that it is frozen is not
//! written: its cgroup tells.

use super::protocol::{Exit, Phase};
use super::spec::Spec;
use ferry_model::ids::{BootId, Hash};
use ferry_sys::replace::replace_durably;
use minicbor::{Decode, Encode};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::RECORD as FILE;

/// Longest record, bytes: a spec holds arguments and environment, each limited by the kernel.
const BYTES_MAX: u64 = 16 << 20;

/// The record.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Record {
    /// The boot in which it was written: after another, nothing of the workload is left in memory.
    #[n(0)]
    pub boot_id: BootId,
    /// Where the shim stood.
    #[n(1)]
    pub phase: Phase,
    /// What the workload was asked to be.
    #[n(2)]
    pub spec: Spec,
    /// First program: its pid inside of the capsule (an adopted one's: on the host).
    #[n(3)]
    pub first: i32,
    /// How it ended.
    #[n(4)]
    pub exit: Option<Exit>,
    /// Whether it was adopted.
    #[n(5)]
    pub adopted: bool,
    /// Prepared: how many processes wait to run. None before, and in a cold move, whose program the resume starts.
    #[n(6)]
    pub waiting: Option<u32>,
    /// Pages of it were missing, and a pager is there unless all is in. None: nothing was ever missing, or the pager has gone.
    #[n(7)]
    pub missing: Option<bool>,
    /// It began with pages missing, and all are in: the hash on which the source agreed.
    #[n(8)]
    pub all_in: Option<Hash>,
}

impl Record {
    /// Reads the record in `dir`; none where there is none.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(dir.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        minicbor::decode(&bytes).map(Some).map_err(|e| {
            io::Error::new(io::ErrorKind::InvalidData, format!("The record {FILE} cannot be read: {e}"))
        })
    }

    /// Writes it, so that after a crash there is either this one or the one before.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let bytes = minicbor::to_vec(self).map_err(|e| io::Error::other(e.to_string()))?;
        replace_durably(&dir.join(FILE), &bytes)
    }

    /// Removes it: the workload is gone from this host.
    pub fn remove(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// This boot of this host.
pub fn boot_id() -> io::Result<BootId> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim().parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
