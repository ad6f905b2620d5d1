//! The control connection of a move: one thread reads it, so that a move hears the other side, the clock and its user at one place.
//!
//! What comes is queued in order. A bounded queue keeps a fast sender from filling this node's memory.

use ferry_model::handover::Input;
use ferry_transfer::wire::control::{self, Message};
use ferry_transfer::wire::{Stream, Writer};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How long what came last over a connection that is gone is waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Messages that may wait to be handled; a chunk is up to 1 MiB.
const QUEUED_MAX: usize = 8;

/// What a move hears.
pub enum Heard {
    /// The other side said something.
    Message(Message),
    /// The connection is gone.
    Gone(io::Error),
    /// The other side has connected again.
    Attached(Box<dyn Stream>),
    /// The user gives up.
    Cancel(String),
    /// A person says something else to the handover, which decides what to make of it.
    Order(Input),
    /// Nothing happened for the time that was given, or a thread of this move has something for who listens to look at.
    Nothing,
}

/// The control connection. It may be lost and replaced; what is said while there is none is dropped.
pub struct Link {
    writer: Option<Writer>,
    heard: Receiver<Heard>,
    sender: SyncSender<Heard>,
    /// How often it was connected: what a reader of an older connection says no longer counts.
    generation: Arc<AtomicU64>,
}

impl Link {
    /// No connection yet.
    #[must_use]
    pub fn unconnected() -> Self {
        let (sender, heard) = sync_channel(QUEUED_MAX);
        Self { writer: None, heard, sender, generation: Arc::default() }
    }

    /// Takes a connection whose greeting is over.
    pub fn new(stream: Box<dyn Stream>) -> io::Result<Self> {
        let mut link = Self::unconnected();
        link.attach(stream)?;
        Ok(link)
    }

    /// Goes on over another connection.
    pub fn attach(&mut self, stream: Box<dyn Stream>) -> io::Result<()> {
        let (mut reader, writer) = stream.split()?;
        let mine = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        let (to, generation) = (self.sender.clone(), self.generation.clone());
        self.writer = Some(writer);
        std::thread::Builder::new().name("ferry-link".into()).spawn(move || {
            loop {
                let (heard, last) = match control::receive(&mut reader) {
                    Ok(message) => (Heard::Message(message), false),
                    Err(e) => (Heard::Gone(e), true),
                };
                let replaced = generation.load(Ordering::SeqCst) != mine;
                if replaced || to.send(heard).is_err() || last {
                    return;
                }
            }
        })?;
        Ok(())
    }

    /// Where something can be put for this link to hear, from another thread.
    #[must_use]
    pub fn sender(&self) -> SyncSender<Heard> {
        self.sender.clone()
    }

    /// Whether there is no connection now.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.writer.is_none()
    }

    /// Says something.
    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        let sent = control::send(self.writer()?, message);
        if sent.is_err() {
            self.writer = None;
        }
        sent
    }

    /// Where bulk is written to.
    pub fn writer(&mut self) -> io::Result<&mut Writer> {
        self.writer.as_mut().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotConnected, "The connection to the other node is lost")
        })
    }

    /// What happens next, waiting at most `time_max`.
    pub fn hear(&mut self, time_max: Duration) -> Heard {
        match self.heard.recv_timeout(time_max) {
            Ok(heard) => {
                if matches!(heard, Heard::Gone(_)) {
                    self.writer = None;
                }
                heard
            }
            Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(RecvTimeoutError::Disconnected) => Heard::Gone(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The next message; an error when the connection is gone, the other side failed, the user cancelled, or `time_max` is over.
    pub fn expect(&mut self, time_max: Duration) -> io::Result<Message> {
        // That it is gone is heard once. Whoever asks again, to read the rest of something, must not wait for nobody.
        let time_max = if self.is_gone() { time_max.min(LAST_WORDS) } else { time_max };
        let end = Instant::now() + time_max;
        let heard = loop {
            match self.hear(end.saturating_duration_since(Instant::now())) {
                // Only a handover in doubt has a use for it, and that one does not wait for a message.
                Heard::Order(_) => {}
                // Somebody was to be woken who is awake by now.
                Heard::Nothing if Instant::now() < end => {}
                heard => break heard,
            }
        };
        match heard {
            Heard::Message(Message::Failed { error }) => Err(io::Error::other(error)),
            Heard::Message(message) => Ok(message),
            Heard::Gone(e) => {
                Err(io::Error::new(e.kind(), format!("The connection to the other node is lost: {e}")))
            }
            Heard::Attached(_) => {
                Err(io::Error::other("The other node connected again in the middle of a move"))
            }
            Heard::Cancel(why) => Err(io::Error::new(io::ErrorKind::Interrupted, why)),
            Heard::Nothing if self.is_gone() => {
                Err(io::Error::new(io::ErrorKind::NotConnected, "The connection to the other node is lost"))
            }
            Heard::Nothing | Heard::Order(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("The other node said nothing for {} s", time_max.as_secs()),
            )),
        }
    }
}
