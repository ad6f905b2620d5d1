//! The control connection of a move: one thread reads it, so that a move hears the other side, the clock and its user at one place.
//!
//! What comes is queued in order. A bounded queue keeps a fast sender from filling this node's memory.

use ferry_transfer::wire::control::{self, Message};
use ferry_transfer::wire::{Stream, Writer};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Messages that may wait to be handled; a chunk is up to 1 MiB.
const QUEUED_MAX: usize = 8;

/// What a move hears.
#[derive(Debug)]
pub enum Heard {
    /// The other side said something.
    Message(Message),
    /// The connection is gone.
    Gone(io::Error),
    /// The user gives up.
    Cancel(String),
    /// Nothing happened for the time that was given.
    Nothing,
}

/// The control connection.
pub struct Link {
    writer: Writer,
    heard: Receiver<Heard>,
    sender: SyncSender<Heard>,
    gone: bool,
}

impl Link {
    /// Takes a connection whose greeting is over.
    pub fn new(stream: Box<dyn Stream>) -> io::Result<Self> {
        let (mut reader, writer) = stream.split()?;
        let (sender, heard) = sync_channel(QUEUED_MAX);
        let to = sender.clone();
        std::thread::Builder::new().name("ferry-link".into()).spawn(move || {
            loop {
                let (heard, last) = match control::receive(&mut reader) {
                    Ok(message) => (Heard::Message(message), false),
                    Err(e) => (Heard::Gone(e), true),
                };
                if to.send(heard).is_err() || last {
                    return;
                }
            }
        })?;
        Ok(Self { writer, heard, sender, gone: false })
    }

    /// Where a cancel can be put from another thread.
    #[must_use]
    pub fn canceller(&self) -> SyncSender<Heard> {
        self.sender.clone()
    }

    /// Whether the connection was found gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Says something.
    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        control::send(&mut self.writer, message).inspect_err(|_| self.gone = true)
    }

    /// Where bulk is written to.
    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// What happens next, waiting at most `time_max`.
    pub fn hear(&mut self, time_max: Duration) -> Heard {
        match self.heard.recv_timeout(time_max) {
            Ok(heard) => {
                self.gone |= matches!(heard, Heard::Gone(_));
                heard
            }
            Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(RecvTimeoutError::Disconnected) => Heard::Gone(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The next message; an error when the connection is gone, the other side failed, the user cancelled, or `time_max` is over.
    pub fn expect(&mut self, time_max: Duration) -> io::Result<Message> {
        match self.hear(time_max) {
            Heard::Message(Message::Failed { error }) => Err(io::Error::other(error)),
            Heard::Message(message) => Ok(message),
            Heard::Gone(e) => {
                Err(io::Error::new(e.kind(), format!("The connection to the other node is lost: {e}")))
            }
            Heard::Cancel(why) => Err(io::Error::new(io::ErrorKind::Interrupted, why)),
            Heard::Nothing => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("The other node said nothing for {} s", time_max.as_secs()),
            )),
        }
    }
}
