//! The audit log: everything that was let in or turned away. JSON lines; each carries the hash of the one before it, so
//! that a line changed, lost or put in between is noticed. The newest hash is kept in a file beside, so that a cut tail
//! is noticed too. It protects against what is done to the file, not against who can rewrite both and all after it.

use crate::files;
use crate::trust::now_unix;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::Hash;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Longest line, bytes.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Longest text of one field, characters.
const TEXT_MAX: usize = 500;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Let in, done.
    Allowed,
    /// Turned away.
    Refused,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    number: u64,
    at_unix: u64,
    who: String,
    what: String,
    verdict: Verdict,
    why: String,
    before: Hash,
    hash: Hash,
}

impl Line {
    fn expected(&self) -> Hash {
        let parts: [&[u8]; 7] = [
            &self.number.to_le_bytes(),
            &self.at_unix.to_le_bytes(),
            self.who.as_bytes(),
            self.what.as_bytes(),
            &[u8::from(self.verdict == Verdict::Allowed)],
            self.why.as_bytes(),
            &self.before.0,
        ];
        // Each part with its length, so that nothing can be pushed over from one into the next.
        let mut all = Vec::new();
        for part in parts {
            all.extend_from_slice(&(part.len() as u64).to_le_bytes());
            all.extend_from_slice(part);
        }
        Hash::of(&all)
    }
}

/// The log, open for appending.
pub struct Audit {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    file: File,
    number: u64,
    last: Hash,
}

impl Audit {
    /// Opens the log in the state directory. A damaged one is kept and gone on with; `ferry doctor` tells.
    pub fn open(state: &Path) -> Result<Self> {
        let path = state.join("audit.log");
        let (number, last) = last_line(&path)?;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(|cause| unable(&path, &cause))?;
        Ok(Self { path, state: Mutex::new(State { file, number, last }) })
    }

    /// Writes a line, durably. That it cannot is told in the node's own log: an attack must not be able to stop the node by
    /// filling the disk, and what was decided is decided.
    pub fn note(&self, who: &str, what: &str, verdict: Verdict, why: &str) {
        if let Err(error) = self.append(who, what, verdict, why) {
            tracing::error!(%error, causes = ?error.causes, who, what, ?verdict, why, "the audit log cannot be written");
        }
    }

    fn append(&self, who: &str, what: &str, verdict: Verdict, why: &str) -> Result<()> {
        let short = |text: &str| text.chars().take(TEXT_MAX).collect::<String>();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = Line {
            number: state.number + 1,
            at_unix: now_unix(),
            who: short(who),
            what: short(what),
            verdict,
            why: short(why),
            before: state.last,
            hash: state.last,
        };
        line.hash = line.expected();
        let mut text = serde_json::to_vec(&line).map_err(|cause| Error::from_source(Kind::Bug, &cause))?;
        text.push(b'\n');
        let written = state.file.write_all(&text).and_then(|()| state.file.sync_data());
        written.map_err(|cause| unable(&self.path, &cause))?;
        (state.number, state.last) = (line.number, line.hash);
        files::write_durably(&head_path(&self.path), format!("{} {}\n", line.number, line.hash).as_bytes())
    }
}

/// Checks the whole log of a state directory; returns the number of lines, or what is wrong with it in one sentence.
pub fn verify(state: &Path) -> Result<u64, String> {
    let path = state.join("audit.log");
    let file = match File::open(&path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            return if head_path(&path).exists() { Err("it was removed".to_owned()) } else { Ok(0) };
        }
        opened => opened.map_err(|cause| format!("it cannot be opened: {cause}"))?,
    };
    let (mut number, mut last) = (0, Hash([0; 32]));
    for text in BufReader::new(file).lines() {
        let text = text.map_err(|cause| format!("it cannot be read after line {number}: {cause}"))?;
        let next = number + 1;
        let line: Line = Some(&text)
            .filter(|text| text.len() <= LINE_BYTES_MAX)
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| format!("line {next} is not a record"))?;
        if line.number != next || line.before != last {
            return Err(format!(
                "line {next} does not follow the one before it: something was taken out or put in"
            ));
        }
        if line.hash != line.expected() {
            return Err(format!("line {next} was changed"));
        }
        (number, last) = (next, line.hash);
    }
    let head = std::fs::read_to_string(head_path(&path)).unwrap_or_default();
    let head_number = head.split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // A crash between the line and its head leaves the head one behind, and no further.
    let agrees = head.trim() == format!("{number} {last}") || (head_number + 1 == number);
    if agrees || (number == 0 && head.is_empty()) {
        Ok(number)
    } else {
        Err("its end was cut off".to_owned())
    }
}

fn last_line(path: &Path) -> Result<(u64, Hash)> {
    let none = (0, Hash([0; 32]));
    let file = match File::open(path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(none),
        opened => opened.map_err(|cause| unable(path, &cause))?,
    };
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    let last = lines.filter_map(|text| serde_json::from_str::<Line>(&text).ok()).last();
    Ok(last.map_or(none, |line| (line.number, line.hash)))
}

fn head_path(path: &Path) -> PathBuf {
    path.with_extension("head")
}

fn unable(path: &Path, cause: &std::io::Error) -> Error {
    Error::from_source(Kind::Unable, cause)
        .context(format!("The audit log {} cannot be used", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for who in ["alpha", "beta", "gamma"] {
            // Opened anew each time: the chain goes on over restarts.
            Audit::open(dir.path()).unwrap().note(who, "send web", Verdict::Refused, "policy");
        }
        dir
    }

    fn damage(change: impl FnOnce(Vec<String>) -> Vec<String>) -> String {
        let dir = logged();
        let path = dir.path().join("audit.log");
        let lines = std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
        std::fs::write(&path, change(lines).join("\n") + "\n").unwrap();
        verify(dir.path()).unwrap_err()
    }

    #[test]
    fn an_untouched_log_verifies() {
        assert_eq!(verify(logged().path()), Ok(3));
        assert_eq!(verify(tempfile::tempdir().unwrap().path()), Ok(0));
    }

    #[test]
    fn whatever_is_done_to_it_is_noticed() {
        let changed = damage(|lines| lines.into_iter().map(|line| line.replace("beta", "mallory")).collect());
        assert!(changed.contains("line 2 was changed"), "{changed}");
        let removed = damage(|mut lines| {
            lines.remove(1);
            lines
        });
        assert!(removed.contains("does not follow"), "{removed}");
        let cut = damage(|lines| lines[..1].to_vec());
        assert!(cut.contains("cut off"), "{cut}");
        let swapped = damage(|mut lines| {
            lines.swap(0, 1);
            lines
        });
        assert!(swapped.contains("does not follow"), "{swapped}");
        let dir = logged();
        std::fs::remove_file(dir.path().join("audit.log")).unwrap();
        assert!(verify(dir.path()).unwrap_err().contains("removed"));
    }
}
