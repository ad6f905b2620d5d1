//! The host's key that signs images, and the keys that are trusted.
//!
//! The key is made on first use, also where no node runs, and never leaves its file. Whoever holds it can make this
//! host run anything as root by `ferry restore`; so its file is 0600 and one that others can read is refused.

use crate::error::{Error, Result};
use crate::limits;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rustix::fs::{Mode, OFlags};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// File of the host's key within its state directory: 64 hexadecimal digits, the Ed25519 seed.
pub const KEY_FILE: &str = "image.key";
/// File of the keys trusted besides: one public key on each line, then a comment.
pub const TRUSTED_FILE: &str = "trusted-image-keys";

/// A public key, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PublicKey {
    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }

    /// Whether `signature` over `message` was made with the key that belongs to this one.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        // `verify_strict` also refuses the weak keys under which one signature fits many messages.
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

/// The key of this host.
pub struct HostKey(SigningKey);

impl HostKey {
    /// The key in the directory `state`, made if there is none. Two processes that make it at once end with the same.
    pub fn load_or_create(state: &Path) -> Result<Self> {
        let path = state.join(KEY_FILE);
        match Self::load(&path)? {
            Some(key) => Ok(key),
            None => {
                std::fs::create_dir_all(state)
                    .map_err(|e| Error::io(format!("make the directory {}", state.display()), e))?;
                Self::create(state, &path)?;
                Self::load(&path)?.ok_or_else(|| unusable(&path, "it vanished as soon as it was made"))
            }
        }
    }

    fn load(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(format!("open {}", path.display()), e)),
        };
        let metadata = file.metadata().map_err(|e| Error::io(format!("inspect {}", path.display()), e))?;
        if metadata.mode() & 0o077 != 0 {
            return Err(unusable(
                path,
                "others than its owner can read or write it (chmod 600 it if none has)",
            ));
        }
        let mut text = String::new();
        file.take(256)
            .read_to_string(&mut text)
            .map_err(|e| Error::io(format!("read {}", path.display()), e))?;
        match unhex(text.trim()) {
            Some(seed) => Ok(Some(Self(SigningKey::from_bytes(&seed)))),
            None => Err(unusable(path, "it does not hold 64 hexadecimal digits")),
        }
    }

    fn create(state: &Path, path: &Path) -> Result<()> {
        let mut seed = [0; 32];
        let mut tag = [0; 8];
        getrandom::fill(&mut seed)
            .and_then(|()| getrandom::fill(&mut tag))
            .map_err(|e| Error::io("draw random numbers", std::io::Error::other(e.to_string())))?;
        let temporary: PathBuf = state.join(format!(".{KEY_FILE}.{:016x}", u64::from_ne_bytes(tag)));
        let failed = |e: std::io::Error| Error::io(format!("write {}", temporary.display()), e);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd =
            rustix::fs::open(&temporary, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
        let mut file = File::from(fd);
        let text = format!("{}\n", PublicKey(seed));
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        // A link fails where a rename would replace the key that another process has just made and used.
        let linked = written.and_then(|()| match std::fs::hard_link(&temporary, path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
        let _ = std::fs::remove_file(&temporary);
        linked.map_err(failed)?;
        File::open(state)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| Error::io(format!("sync {}", state.display()), e))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// Whose images are accepted.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Accepted keys.
    pub keys: Vec<PublicKey>,
    /// Accept any key that has signed correctly (`--trust-image`). Unsigned images are refused all the same.
    pub any: bool,
}

impl Trust {
    /// The host's own key and those listed in the directory `state`.
    pub fn load(state: &Path, any: bool) -> Result<Self> {
        let mut keys = Vec::new();
        if let Some(own) = HostKey::load(&state.join(KEY_FILE))? {
            keys.push(own.public());
        }
        let path = state.join(TRUSTED_FILE);
        let text = match File::open(&path) {
            Ok(file) => {
                let mut text = String::new();
                file.take(limits::KEYS_BYTES_MAX)
                    .read_to_string(&mut text)
                    .map_err(|e| Error::io(format!("read {}", path.display()), e))?;
                text
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io(format!("open {}", path.display()), e)),
        };
        for (number, line) in text.lines().enumerate() {
            let Some(word) = line.split_whitespace().next().filter(|word| !word.starts_with('#')) else {
                continue;
            };
            let key = PublicKey::parse(word).ok_or_else(|| {
                unusable(&path, &format!("line {} does not begin with 64 hexadecimal digits", number + 1))
            })?;
            keys.push(key);
        }
        Ok(Self { keys, any })
    }

    pub(crate) fn accepts(&self, key: &PublicKey) -> bool {
        self.any || self.keys.contains(key)
    }
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::Key { path: path.to_owned(), why: why.to_owned() }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        let state = tempfile::tempdir().unwrap();
        let keys: Vec<PublicKey> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| HostKey::load_or_create(state.path()).unwrap().public()))
                .collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        let path = state.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(HostKey::load_or_create(state.path()), Err(Error::Key { .. })));
    }

    #[test]
    fn listed_keys_are_read_with_comments() {
        let state = tempfile::tempdir().unwrap();
        let key = PublicKey([7; 32]);
        std::fs::write(state.path().join(TRUSTED_FILE), format!("# hosts\n\n{key} node-1\n")).unwrap();
        let trust = Trust::load(state.path(), false).unwrap();
        assert_eq!(trust.keys, vec![key]);
        std::fs::write(state.path().join(TRUSTED_FILE), "nonsense\n").unwrap();
        assert!(matches!(Trust::load(state.path(), false), Err(Error::Key { .. })));
    }
}
