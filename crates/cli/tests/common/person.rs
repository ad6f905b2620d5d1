//! A person at a pseudo-terminal: types, sees, and is there until the command ends.

use super::{Node, PATIENCE};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A person at a terminal, who runs `ferry`.
pub struct Person {
    keys: File,
    seen: Arc<Mutex<Vec<u8>>>,
    client: Child,
}

impl Person {
    /// Runs a command of `ferry` on a terminal of 41 lines and 103 columns.
    pub fn runs(node: &Node, args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 41, ws_col: 103, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let name = std::ffi::OsStr::from_bytes(name.as_bytes()).to_owned();
        let open = || File::options().read(true).write(true).open(&name).unwrap();
        let mut command = node.command(args);
        let client =
            command.env("TERM", "vt100").stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        let keys = File::from(master);
        let mut screen = keys.try_clone().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shown = seen.clone();
        // Ends with an error when the last user of the terminal is gone.
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut piece) {
                shown.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Self { keys, seen, client }
    }

    pub fn types(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the terminal has shown `wanted`.
    pub fn sees(&self, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.seen().contains(wanted) {
            assert!(Instant::now() < end, "the terminal does not show {wanted:?}: {:?}", self.seen());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Everything that was shown so far.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Waits for the command's end; returns everything that was shown.
    pub fn ends_with(mut self, code: i32) -> String {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            match self.client.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > end => {
                    let _ = self.client.kill();
                    panic!(
                        "the client does not end; it showed {:?}",
                        String::from_utf8_lossy(&self.seen.lock().unwrap())
                    );
                }
                None => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        };
        assert_eq!(status.code(), Some(code), "{}", self.seen());
        self.seen()
    }
}
