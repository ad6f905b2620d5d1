//! Another program in the capsule, whose standard streams are a client's connection.
//!
//! The client and the shim stay where they are, so a program whose streams they have stands in the way of a move, by name. Once its
//! client has left it is a program like any other of the workload, with closed streams, and moves along.

use super::protocol::Exit;
use super::spec::ExecSpec;
use super::stream::Frame;
use super::terminal::Terminal;
use super::workload::{Workload, no_capsule, unable};
use ferry_model::error::Result;
use ferry_model::plan::{Blocker, Holder, Resource};
use ferry_model::resource::{Attachment, Binding};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::fs::File;
use std::io::{self, Read, Write};

/// Most input that waits for the program, bytes.
const INPUT_BYTES_MAX: usize = 4 << 20;

/// A program that was started by exec.
pub(super) struct Exec {
    pub(super) number: u64,
    /// Inside.
    pub(super) pid: i32,
    program: String,
    pub(super) exit: Option<Exit>,
    terminal: Option<Terminal>,
    input: Option<File>,
    waiting: Vec<u8>,
    input_ends: bool,
    output: Option<File>,
    errors: Option<File>,
}

const OUTPUT: u8 = 1;
const ERRORS: u8 = 2;
const INPUT: u8 = 3;
const TERMINAL: u8 = 4;

impl Exec {
    pub(super) fn start(workload: &mut Workload, spec: &ExecSpec, number: u64) -> Result<Self> {
        let made = |e: io::Error| unable("Standard streams could not be made", &e);
        let mut exec = Self {
            number,
            pid: 0,
            program: spec.command.first().cloned().unwrap_or_default(),
            exit: None,
            terminal: None,
            input: None,
            waiting: Vec::new(),
            input_ends: false,
            output: None,
            errors: None,
        };
        let stdio: Vec<OwnedFd> = match spec.terminal {
            Some(size) => {
                let capsule = workload.capsule.as_ref().ok_or_else(no_capsule)?;
                let (terminal, slave) = Terminal::open(capsule.root_fd(), size).map_err(made)?;
                exec.terminal = Some(terminal);
                vec![slave.try_clone().map_err(made)?, slave.try_clone().map_err(made)?, slave]
            }
            None => {
                let (input, output, errors) = (io::pipe(), io::pipe(), io::pipe());
                let (input, output, errors) =
                    (input.map_err(made)?, output.map_err(made)?, errors.map_err(made)?);
                exec.input = Some(not_blocking(input.1.into()).map_err(made)?);
                exec.output = Some(not_blocking(output.0.into()).map_err(made)?);
                exec.errors = Some(not_blocking(errors.0.into()).map_err(made)?);
                vec![input.0.into(), output.1.into(), errors.1.into()]
            }
        };
        exec.pid = workload.spawn(spec, stdio)?.pid;
        Ok(exec)
    }

    /// Whether a client has its streams.
    pub(super) fn has_client(&self) -> bool {
        self.terminal.is_some() || self.output.is_some() || self.errors.is_some() || self.input.is_some()
    }

    /// Why a workload does not move while a client has the program's streams.
    pub(super) fn blocker(&self) -> Blocker {
        Blocker {
            what: format!(
                "process {} ({}) was started by `ferry exec`, and a client here has its standard streams",
                self.pid, self.program
            ),
            lifted_by:
                "Let it end. Or end that `ferry exec`: its program then moves along, without its streams"
                    .into(),
        }
    }

    /// The same, as one of the workload's resources.
    pub(super) fn resource(&self) -> Resource {
        Resource {
            sort: "exec".into(),
            name: format!("standard streams of {}", self.program),
            holder: Some(Holder { pid: self.pid, fd: None }),
            binding: Binding::Type,
            attachment: Attachment::Fixed,
            bytes: 0,
            hash: None,
            unsupported: Some(self.blocker()),
            shared: None,
        }
    }

    /// Descriptors to wait for; output only while its reader is not `behind`.
    pub(super) fn watched(&self, behind: bool) -> Vec<(u8, BorrowedFd<'_>, PollFlags)> {
        let mut out: Vec<(u8, BorrowedFd<'_>, PollFlags)> = Vec::new();
        if !behind {
            out.extend(self.output.as_ref().map(|file| (OUTPUT, file.as_fd(), PollFlags::IN)));
            out.extend(self.errors.as_ref().map(|file| (ERRORS, file.as_fd(), PollFlags::IN)));
            out.extend(self.terminal.as_ref().map(|terminal| (TERMINAL, terminal.fd(), PollFlags::IN)));
        }
        if !self.waiting.is_empty() {
            out.extend(self.input.as_ref().map(|file| (INPUT, file.as_fd(), PollFlags::OUT)));
        }
        out
    }

    /// What came out of one of its descriptors.
    pub(super) fn output(&mut self, which: u8) -> Option<Frame> {
        let mut buffer = vec![0; 32 << 10];
        let file = match which {
            OUTPUT => &mut self.output,
            ERRORS => &mut self.errors,
            TERMINAL => {
                let bytes = self.terminal.as_mut()?.read();
                if bytes.is_none() && self.exit.is_some() {
                    self.terminal = None;
                }
                return bytes.filter(|bytes| !bytes.is_empty()).map(Frame::Output);
            }
            _ => {
                self.type_waiting();
                return None;
            }
        };
        match file.as_mut()?.read(&mut buffer) {
            Ok(0) => {
                *file = None;
                None
            }
            Ok(count) => {
                buffer.truncate(count);
                Some(if which == OUTPUT { Frame::Output(buffer) } else { Frame::ErrorOutput(buffer) })
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            Err(_) => {
                *file = None;
                None
            }
        }
    }

    /// What the client typed.
    pub(super) fn input(&mut self, frame: &Frame) {
        match (frame, &mut self.terminal) {
            (Frame::Input(bytes), Some(terminal)) => terminal.write(bytes),
            (Frame::Resize(size), Some(terminal)) => {
                let _ = terminal.resize(*size);
            }
            (Frame::Input(bytes), None) => {
                self.input_ends |= bytes.is_empty();
                if self.waiting.len() + bytes.len() <= INPUT_BYTES_MAX {
                    self.waiting.extend_from_slice(bytes);
                }
                self.type_waiting();
            }
            _ => {}
        }
    }

    fn type_waiting(&mut self) {
        let Some(input) = &mut self.input else { return };
        while !self.waiting.is_empty() {
            match input.write(&self.waiting) {
                Ok(count) => {
                    self.waiting.drain(..count);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.waiting.clear();
                    self.input_ends = true;
                }
            }
        }
        if self.input_ends {
            self.input = None;
        }
    }

    /// The client is gone: the program reads the end of its input, and its terminal hangs up.
    pub(super) fn hang_up(&mut self) {
        self.input = None;
        self.terminal = None;
        self.output = None;
        self.errors = None;
    }

    /// What is left to say after its end. Descendants may hold its pipes open for ever: they are not waited for.
    pub(super) fn rest(&mut self) -> Vec<Frame> {
        let mut rest = Vec::new();
        for which in [OUTPUT, ERRORS, TERMINAL] {
            while let Some(frame) = self.output(which) {
                rest.push(frame);
            }
        }
        rest
    }
}

fn not_blocking(fd: OwnedFd) -> io::Result<File> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd.into())
}
