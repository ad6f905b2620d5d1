//! Records of system calls and the bytes that they point at, laid out for one area of a task's memory.

use super::call::{Argument, RemoteCall};
use super::{CallFailed, Error};
use std::borrow::Cow;

/// Bytes of one record: number, six arguments, result.
pub const RECORD_BYTES: u64 = 64;
/// What a record's result is before the call has run.
const NOT_RUN: i64 = i64::MIN;

/// Where in the task the records and the data are, and how much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Address of the first record.
    pub records: u64,
    /// Bytes for records.
    pub records_len: u64,
    /// Address of the data.
    pub data: u64,
    /// Bytes for data.
    pub data_len: u64,
}

struct Meta {
    what: Cow<'static, str>,
    accept: Vec<i32>,
}

/// A program: a list of calls. Their indices name their results.
pub struct Program {
    layout: Layout,
    records: Vec<[i64; 8]>,
    meta: Vec<Meta>,
    data: Vec<u8>,
    overflow: bool,
}

impl Program {
    /// An empty program for the memory that `layout` names.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self { layout, records: Vec::new(), meta: Vec::new(), data: Vec::new(), overflow: false }
    }

    /// Number of calls so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no call yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds a call that is to `what`; returns its index.
    pub fn call(&mut self, what: impl Into<Cow<'static, str>>, nr: i64, args: &[u64]) -> usize {
        let mut record = [0i64; 8];
        record[0] = nr;
        for (place, value) in record[1..7].iter_mut().zip(args) {
            *place = *value as i64;
        }
        record[7] = NOT_RUN;
        self.overflow |= (self.records.len() as u64 + 1) * RECORD_BYTES > self.layout.records_len;
        self.records.push(record);
        self.meta.push(Meta { what: what.into(), accept: Vec::new() });
        self.records.len() - 1
    }

    /// Accepts these errors (positive errno) of the last call that was added.
    pub fn accept(&mut self, errors: &[i32]) {
        if let Some(meta) = self.meta.last_mut() {
            meta.accept.extend_from_slice(errors);
        }
    }

    /// Adds a call that somebody else described.
    pub fn remote(&mut self, call: &RemoteCall) -> usize {
        let args: Vec<u64> = call
            .args
            .iter()
            .map(|argument| match argument {
                Argument::Value(value) => *value,
                Argument::Bytes(bytes) => self.data(bytes),
            })
            .collect();
        let index = self.call(call.what.clone(), call.nr, &args);
        self.accept(&call.accept);
        index
    }

    /// Puts bytes into the data; returns their address in the task (a multiple of 64).
    pub fn data(&mut self, bytes: &[u8]) -> u64 {
        let at = self.data.len().next_multiple_of(64);
        self.data.resize(at, 0);
        self.data.extend_from_slice(bytes);
        self.overflow |= self.data.len() as u64 > self.layout.data_len;
        self.layout.data + at as u64
    }

    /// Makes room for `len` bytes that a call writes; returns their address in the task.
    pub fn room(&mut self, len: usize) -> u64 {
        let address = self.data(&[]);
        self.data.resize(self.data.len() + len, 0);
        self.overflow |= self.data.len() as u64 > self.layout.data_len;
        address
    }

    /// What a call returned: a value, or a negative errno.
    #[must_use]
    pub fn result(&self, index: usize) -> i64 {
        self.records[index][7]
    }

    /// What a call is to do.
    #[must_use]
    pub fn what(&self, index: usize) -> &str {
        &self.meta[index].what
    }

    /// Bytes of the data at an address that [`Program::data`] or [`Program::room`] gave.
    #[must_use]
    pub fn read(&self, address: u64, len: usize) -> &[u8] {
        let at = (address - self.layout.data) as usize;
        &self.data[at..at + len]
    }

    /// A word of the data.
    #[must_use]
    pub fn word(&self, address: u64) -> u64 {
        self.read(address, 8).try_into().map_or(0, u64::from_ne_bytes)
    }

    /// Checks that the calls in `range` ran and did not fail, except with what they accept.
    pub fn check(&self, range: std::ops::Range<usize>) -> Result<(), Error> {
        for index in range {
            let (result, meta) = (self.records[index][7], &self.meta[index]);
            let failed = (-4095..0).contains(&result) && !meta.accept.contains(&(-result as i32));
            if failed || result == NOT_RUN {
                let source = if result == NOT_RUN {
                    std::io::Error::other("the call did not run")
                } else {
                    std::io::Error::from_raw_os_error(-result as i32)
                };
                return Err(Error::Call(CallFailed { what: meta.what.to_string(), source }));
            }
        }
        Ok(())
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn images(&self) -> Result<(Vec<u8>, &[u8]), Error> {
        if self.overflow {
            return Err(Error::TooLarge);
        }
        Ok((self.records.iter().flatten().flat_map(|word| word.to_ne_bytes()).collect(), &self.data))
    }

    pub(super) fn take_back(&mut self, records: &[u8], data: Vec<u8>) {
        for (record, bytes) in self.records.iter_mut().zip(records.chunks_exact(RECORD_BYTES as usize)) {
            record[7] = bytes[56..].try_into().map_or(NOT_RUN, i64::from_ne_bytes);
        }
        self.data = data;
    }
}
