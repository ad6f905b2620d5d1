//! Room for the machine code in a running task: the zeros at the end of its vDSO.
//!
//! The vDSO is mapped in every task, executable, and the kernel gives it whole pages. Writing there by `/proc/PID/mem` makes a
//! private copy of the page in that one space; nothing has to run in the task first, so a tracer can die at any moment. A
//! header tells a later tracer what an earlier one left behind.

use super::Error;
use super::code;
use super::machine::UNDO_BYTES;
use crate::ptrace::Registers;
use std::io;

/// Marks the header.
const MAGIC: [u8; 8] = *b"\xf4ferry\x01\xf4";
const HEADER: usize = 24;

/// What goes into the tail, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Address of the header in the task.
    pub base: u64,
    /// Area that an earlier tracer mapped and did not unmap: address and length.
    pub leftover: Option<(u64, u64)>,
    /// An earlier tracer's code is there: a thread may be in the middle of it.
    pub found: bool,
}

impl Tail {
    /// Finds the room in `vdso`, the bytes of a task's vDSO, which it has at address `start`.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when the zeros at its end are too few.
    pub fn find(vdso: &[u8], start: u64) -> Result<Self, Error> {
        if let Some(at) =
            (0..vdso.len().saturating_sub(HEADER)).step_by(16).find(|at| vdso[*at..*at + 8] == MAGIC)
        {
            let word = |from: usize| vdso[at + from..at + from + 8].try_into().map_or(0, u64::from_ne_bytes);
            let leftover = (word(8) != 0).then(|| (word(8), word(16)));
            return Ok(Self { base: start + at as u64, leftover, found: true });
        }
        let used = vdso.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let at = (used + 32).next_multiple_of(16);
        if at + Self::bytes() > vdso.len() {
            return Err(Error::NoRoom);
        }
        Ok(Self { base: start + at as u64, leftover: None, found: false })
    }

    /// Bytes that are written.
    #[must_use]
    pub fn bytes() -> usize {
        HEADER + UNDO_BYTES + code::bytes().len()
    }

    /// The content: header (with the area that is going to be mapped), undo block of the leader, code.
    #[must_use]
    pub fn content(area: (u64, u64), undo: &[u8; UNDO_BYTES]) -> Vec<u8> {
        let mut content = MAGIC.to_vec();
        content.extend_from_slice(&area.0.to_ne_bytes());
        content.extend_from_slice(&area.1.to_ne_bytes());
        content.extend_from_slice(undo);
        content.extend_from_slice(code::bytes());
        content
    }

    /// Whether a thread is in the middle of a program of an earlier tracer: it is to be let run to its end before it is repaired, or what
    /// the rest of the program would have undone stays.
    #[must_use]
    pub fn runs(&self, registers: &Registers) -> bool {
        self.found && (self.code()..self.code() + code::after()).contains(&registers.rip)
    }

    /// If a thread was stopped in the code of an earlier tracer: registers and mask with which it goes on. `read` reads the
    /// task's memory.
    ///
    /// # Errors
    /// When its undo block cannot be read.
    pub fn repair(
        &self,
        registers: &Registers,
        read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<Option<(Registers, Option<u64>)>> {
        const RETURN_BYTES: u64 = 3;
        let end = self.code() + code::bytes().len() as u64;
        if !self.found || !(self.code()..end).contains(&registers.rip) {
            return Ok(None);
        }
        if registers.rip == end - RETURN_BYTES {
            // All but the last instruction is done: `ret 128`.
            let mut address = [0u8; 8];
            read(registers.rsp, &mut address)?;
            let mut repaired = *registers;
            repaired.rip = u64::from_ne_bytes(address);
            repaired.rsp += 8 + 128;
            repaired.orig_rax = u64::MAX;
            return Ok(Some((repaired, None)));
        }
        let mut undo = [0u8; UNDO_BYTES];
        read(registers.rbp, &mut undo)?;
        let mut words = undo.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_ne_bytes));
        let mask = words.next().unwrap_or_default();
        let mut repaired = [0u64; Registers::WORDS];
        repaired.iter_mut().zip(words).for_each(|(place, word)| *place = word);
        let mut repaired = Registers::from_words(repaired);
        repaired.orig_rax = u64::MAX;
        Ok(Some((repaired, Some(mask))))
    }

    /// Address of the leader's undo block.
    #[must_use]
    pub fn undo(&self) -> u64 {
        self.base + HEADER as u64
    }

    /// Address of the code.
    #[must_use]
    pub fn code(&self) -> u64 {
        self.undo() + UNDO_BYTES as u64
    }
}
