//! Join tokens: the authority's fingerprint, 256 secret bits, the only name that it is good for, its end, and where the
//! authority is reached. Good once: that it was used is durable before anything is signed.

use super::authority::Authority;
use super::now_unix;
use crate::files;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::{Hash, HostName};
use minicbor::{Decode, Encode};
use std::path::{Path, PathBuf};

/// What every token begins with.
const PREFIX: &str = "ferry-token-1.";

/// Longest token, characters.
const TOKEN_LENGTH_MAX: usize = 4096;

/// Longest time for which a token is good: 30 days.
pub const VALID_SECONDS_MAX: u64 = 30 * 86_400;

/// What a token holds.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Token {
    /// By what the joiner recognises the authority.
    #[n(0)]
    pub fingerprint: Hash,
    /// What proves to the authority that the joiner was invited.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub secret: [u8; 32],
    /// The name under which it may join.
    #[n(2)]
    pub name: HostName,
    /// When it ends, seconds since 1970.
    #[n(3)]
    pub expires_unix: u64,
    /// Where the authority's node is reached.
    #[n(4)]
    pub address: Option<String>,
}

/// What the authority remembers of a token: not the secret, only its hash, in the file's name.
#[derive(Encode, Decode)]
struct Issued {
    #[n(0)]
    name: HostName,
    #[n(1)]
    expires_unix: u64,
}

impl Token {
    /// Makes a token for `name` and remembers it in the authority's state directory.
    pub fn issue(
        state: &Path,
        fingerprint: Hash,
        name: &HostName,
        seconds: u64,
        address: Option<String>,
    ) -> Result<Self> {
        let mut secret = [0; 32];
        super::fill_random(&mut secret)?;
        let expires_unix = now_unix() + seconds.clamp(1, VALID_SECONDS_MAX);
        let issued = Issued { name: name.clone(), expires_unix };
        let issued = minicbor::to_vec(&issued).map_err(|cause| Error::from_source(Kind::Bug, &cause))?;
        files::make_private_dir(&dir(state))?;
        files::write_durably(&path(state, &secret), &issued)?;
        Ok(Self { fingerprint, secret, name: name.clone(), expires_unix, address })
    }

    /// As text, to be written to a file.
    pub fn to_text(&self) -> Result<String> {
        let bytes = minicbor::to_vec(self).map_err(|cause| Error::from_source(Kind::Bug, &cause))?;
        Ok(bytes.iter().fold(String::from(PREFIX), |text, byte| format!("{text}{byte:02x}")))
    }

    /// Reads a token from text.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(Kind::Usage, "That is not a join token")
                .hint("`ferry node token NAME` on the authority's node makes one")
        };
        let digits =
            text.strip_prefix(PREFIX).filter(|digits| digits.len() <= TOKEN_LENGTH_MAX && digits.is_ascii());
        let digits = digits.filter(|digits| digits.len().is_multiple_of(2)).ok_or_else(bad)?;
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| bad());
        let bytes = (0..digits.len()).step_by(2).map(byte).collect::<Result<Vec<u8>>>()?;
        minicbor::decode(&bytes).map_err(|_| bad())
    }
}

/// Redeems a secret for `name`: from here on it is used, durably, whatever happens next.
///
/// # Errors
/// `Refused` if it was never issued, is over, was used, or is for another name. The answers to who guesses are alike.
pub fn redeem(state: &Path, secret: &[u8; 32], name: &HostName) -> Result<()> {
    let refused = |why: &str| Error::new(Kind::Refused, format!("The join token is not accepted: {why}"));
    let path = path(state, secret);
    let Some(issued) = files::read_if_there(&path)? else { return Err(refused("it was not issued here")) };
    let issued: Issued = minicbor::decode(&issued).map_err(|_| refused("its record is damaged"))?;
    if issued.name != *name {
        return Err(refused("it is for another name"));
    }
    if now_unix() >= issued.expires_unix {
        return Err(refused("it has expired"));
    }
    if !files::create_durably(&path.with_extension("used"), b"")? {
        return Err(refused("it was used before"));
    }
    Ok(())
}

/// Where tokens are remembered. The name is the hash of the secret: to look one up compares nothing byte by byte.
fn path(state: &Path, secret: &[u8; 32]) -> PathBuf {
    dir(state).join(Hash::of(secret).to_string())
}

fn dir(state: &Path) -> PathBuf {
    Authority::dir(state).join("tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(state: &Path, name: &str) -> Token {
        Token::issue(state, Hash([7; 32]), &HostName::new(name).unwrap(), 60, Some("127.0.0.1:1".to_owned()))
            .unwrap()
    }

    #[test]
    fn a_token_reads_back_what_it_prints() {
        let dir = tempfile::tempdir().unwrap();
        let token = issue(dir.path(), "beta");
        assert!(Token::parse(&token.to_text().unwrap()).unwrap() == token);
        for bad in ["", "ferry-token-1.", "ferry-token-1.zz", "ferry-token-2.00", "ferry-token-1.0"] {
            assert_eq!(Token::parse(bad).err().map(|error| error.kind), Some(Kind::Usage), "{bad:?}");
        }
    }

    #[test]
    fn a_token_is_good_once_for_its_name_and_not_after_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path();
        let (beta, gamma) = (HostName::new("beta").unwrap(), HostName::new("gamma").unwrap());
        let token = issue(state, "beta");
        assert_eq!(redeem(state, &[0; 32], &beta).unwrap_err().kind, Kind::Refused, "never issued");
        assert!(redeem(state, &token.secret, &gamma).unwrap_err().message.contains("another name"));
        redeem(state, &token.secret, &beta).unwrap();
        assert!(redeem(state, &token.secret, &beta).unwrap_err().message.contains("used before"));

        let old = issue(state, "beta");
        let record = minicbor::to_vec(Issued { name: beta.clone(), expires_unix: now_unix() - 1 }).unwrap();
        files::write_durably(&path(state, &old.secret), &record).unwrap();
        assert!(redeem(state, &old.secret, &beta).unwrap_err().message.contains("expired"));
    }

    #[test]
    fn the_secret_itself_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let token = issue(dir.path(), "beta");
        let kept = std::fs::read(path(dir.path(), &token.secret)).unwrap();
        assert!(!kept.windows(32).any(|window| window == token.secret));
    }
}
