//! A program on a host that is spoken to line by line: it is told on standard input and answers on standard output.

use crate::error::{At as _, Error, Result};
use crate::host::{Host, Process};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Between two looks whether it has answered.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The program, and the line to it.
pub struct Dialogue {
    process: Process,
    line: File,
    command: String,
    host: String,
    /// Lines that were read already.
    heard: usize,
    time_max: Duration,
}

impl Dialogue {
    /// Starts it; each answer may take `time_max`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start<S: AsRef<str>>(host: &Host, argv: &[S], time_max: Duration) -> Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .at("Making a line to a program")?;
        let process = host.spawn_with(argv, &[], theirs)?;
        let command = argv.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ");
        let host = host.name().to_owned();
        Ok(Self { process, line: File::from(ours), command, host, heard: 0, time_max })
    }

    /// Tells it a line and hears its answer.
    ///
    /// # Errors
    /// It is gone, or does not answer in time.
    pub fn tell(&mut self, line: &str) -> Result<String> {
        writeln!(self.line, "{line}").at("Telling a program something")?;
        self.hear()
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// It has ended, or says nothing in time.
    pub fn hear(&mut self) -> Result<String> {
        let deadline = Instant::now() + self.time_max;
        loop {
            let ended = self.process.has_ended();
            let said = self.process.stdout();
            let mut complete = said.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = complete.nth(self.heard) {
                self.heard += 1;
                return Ok(line.trim_end().to_owned());
            }
            if ended || Instant::now() > deadline {
                return Err(Error::Failed {
                    command: self.command.clone(),
                    host: self.host.clone(),
                    status: if ended { "its end, without an answer" } else { "no answer" }.to_owned(),
                    said: self.process.stderr().trim_end().to_owned(),
                });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
