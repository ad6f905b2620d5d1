//! `attach` and `exec`: after the HTTP upgrade, frames of `ferry_session::shim::stream` both ways, which the node passes on to
//! the workload's shim as they are. Reading and writing are two threads on one socket; the terminal is raw meanwhile,
//! and put back whatever happens.

use crate::client::{Client, error_of};
use crate::failure::{bug, usage};
use ferry_model::error::{Error, Kind, Result};
use ferry_session::shim::protocol::Exit;
use ferry_session::shim::spec::Size;
use ferry_session::shim::stream::Frame;
use hyper::StatusCode;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde::Serialize;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Name of the protocol in the `Upgrade` header.
const PROTOCOL: &str = "ferry-stdio/1";

/// Longest head of an answer, bytes.
const HEAD_MAX: usize = 16 * 1024;

/// The two keys that detach: Ctrl-P, Ctrl-Q.
const DETACH: [u8; 2] = [0x10, 0x11];

/// How the stream ended.
pub enum End {
    /// The program ended with this code.
    Exit(u8),
    /// The user detached; the program goes on.
    Detached,
    /// The stream ended and no code came with it: the program goes on, or moved away.
    Closed,
}

/// Posts `body` to `path`, upgrades, and joins this process's standard streams to the program's until one ends.
pub fn relay(client: &Client, path: &str, body: &impl Serialize, terminal: bool, input: bool) -> Result<End> {
    let (stream, early) = upgrade(client, path, body)?;
    let raw = if terminal { RawTerminal::enter()? } else { None };
    let writer = stream.try_clone().map_err(|cause| broken(&cause))?;
    let detach_keys = raw.is_some();
    let (detached, was_detached) = std::sync::mpsc::channel();
    if terminal {
        let mut resizer = stream.try_clone().map_err(|cause| broken(&cause))?;
        // Before anything is typed: a program that asks at once is told the truth.
        let size = send_size(&mut resizer, None);
        std::thread::spawn(move || send_sizes(resizer, size));
    }
    if input {
        // Blocked in read(2) when the program ends, and goes with the process then.
        std::thread::spawn(move || send_input(writer, detach_keys, &detached));
    } else {
        let _ = (&writer).write_all(&Frame::Input(Vec::new()).encode());
    }
    let end = receive(stream, &early);
    drop(raw);
    match end? {
        End::Closed if was_detached.try_recv().is_ok() => Ok(End::Detached),
        end => Ok(end),
    }
}

/// Sends the request by hand: what follows the answer's head is no longer HTTP.
fn upgrade(client: &Client, path: &str, body: &impl Serialize) -> Result<(UnixStream, Vec<u8>)> {
    let body = serde_json::to_vec(body).map_err(|cause| bug(&cause))?;
    let mut stream = client.open()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: ferry\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).map_err(|cause| broken(&cause))?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    let end = loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let count = stream.read(&mut piece).map_err(|cause| broken(&cause))?;
        if count == 0 || answer.len() > HEAD_MAX {
            return Err(client.broken(&std::io::Error::from(std::io::ErrorKind::UnexpectedEof)));
        }
        answer.extend_from_slice(&piece[..count]);
    };
    let early = answer.split_off(end);
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    if status == Some(101) {
        return Ok((stream, early));
    }
    // An ordinary answer: an error with a body. It ends when the node has said all; a keep-alive connection does not.
    let mut rest = early;
    stream.set_read_timeout(Some(Duration::from_millis(500))).map_err(|cause| broken(&cause))?;
    while let Ok(count) = stream.read(&mut piece) {
        if count == 0 || rest.len() > HEAD_MAX || serde_json::from_slice::<Error>(&rest).is_ok() {
            break;
        }
        rest.extend_from_slice(&piece[..count]);
    }
    let status = status.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::BAD_GATEWAY);
    Err(error_of(status, &rest))
}

fn receive(mut stream: UnixStream, early: &[u8]) -> Result<End> {
    let mut waiting = early.to_vec();
    let mut piece = vec![0; 64 * 1024];
    loop {
        while let Some((frame, len)) = Frame::decode(&waiting).map_err(|cause| broken(&cause))? {
            waiting.drain(..len);
            match frame {
                Frame::Output(bytes) => pass_on(&mut std::io::stdout().lock(), &bytes)?,
                Frame::ErrorOutput(bytes) => pass_on(&mut std::io::stderr().lock(), &bytes)?,
                Frame::Exit(Exit::Code(code)) => {
                    return Ok(End::Exit(u8::try_from(code & 0xff).unwrap_or(255)));
                }
                Frame::Exit(Exit::Signal(signal)) => {
                    return Ok(End::Exit(u8::try_from(128 + signal).unwrap_or(255)));
                }
                Frame::Input(_) | Frame::Resize(_) => {}
            }
        }
        match stream.read(&mut piece) {
            Ok(0) => return Ok(End::Closed),
            Ok(count) => waiting.extend_from_slice(&piece[..count]),
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(broken(&cause)),
        }
    }
}

fn pass_on(to: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(|cause| broken(&cause))
}

fn send_input(mut stream: UnixStream, detach_keys: bool, detached: &std::sync::mpsc::Sender<()>) {
    let mut piece = vec![0; 64 * 1024];
    let mut last = 0;
    loop {
        let count = match std::io::stdin().lock().read(&mut piece) {
            Ok(0) | Err(_) => {
                let _ = stream.write_all(&Frame::Input(Vec::new()).encode());
                return;
            }
            Ok(count) => count,
        };
        let typed = &piece[..count];
        let pair =
            typed.windows(2).any(|pair| pair == DETACH) || (last == DETACH[0] && typed[0] == DETACH[1]);
        if detach_keys && pair {
            let _ = detached.send(());
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
        last = typed[count - 1];
        if stream.write_all(&Frame::Input(typed.to_vec()).encode()).is_err() {
            return;
        }
    }
}

/// Tells the size of the terminal whenever it has changed from `last`. Asked for four times a second: no signal handler is needed,
/// and no eye sees the difference.
fn send_sizes(mut stream: UnixStream, mut last: Option<Size>) {
    loop {
        std::thread::sleep(Duration::from_millis(250));
        last = send_size(&mut stream, last);
    }
}

/// Tells the size of the terminal unless it is `last`; returns the size. When nobody listens any more, the reader of the stream ends.
fn send_size(stream: &mut UnixStream, last: Option<Size>) -> Option<Size> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    let size = Size { rows: size.ws_row, columns: size.ws_col };
    if last != Some(size) {
        let _ = stream.write_all(&Frame::Resize(size).encode());
    }
    Some(size)
}

/// The terminal in raw mode; dropping it puts back what was.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before =
            tcgetattr(&stdin).map_err(|cause| usage(format!("The terminal does not answer: {cause}")))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)
            .map_err(|cause| usage(format!("The terminal cannot be made raw: {cause}")))?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}

fn broken(cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::from_source(Kind::Unable, cause).context("The stream to the workload broke")
}
