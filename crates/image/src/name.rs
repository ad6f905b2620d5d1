//! Names of records and streams: relative paths that cannot leave the image.

use crate::error::{Error, Result};
use crate::limits;

/// The file with the manifest.
pub(crate) const MANIFEST: &str = "manifest";
/// The file with its signature.
pub(crate) const SIGNATURE: &str = "manifest.sig";
/// The folder of records.
pub(crate) const RECORDS: &str = "records";
/// The folder of streams.
pub(crate) const STREAMS: &str = "streams";
/// The mark of an image that was restored.
pub(crate) const CONSUMED: &str = "consumed";

/// The file of pages with this number.
pub(crate) fn pages(number: usize) -> String {
    format!("pages-{number}")
}

/// Checks that `name` is one to four components of letters, digits, `.`, `_` and `-`, none beginning with a dot.
/// That excludes `..`, absolute paths and hidden files at once; what is opened is opened beneath the image anyway.
pub(crate) fn check(name: &str) -> Result<()> {
    let component = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if name.len() > limits::NAME_BYTES_MAX {
        let found = name.len() as u64;
        return Err(Error::Oversized {
            file: "the name of a record".into(),
            found,
            limit: limits::NAME_BYTES_MAX as u64,
        });
    }
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > limits::NAME_DEPTH_MAX || !parts.iter().all(|part| component(part)) {
        return Err(Error::Climbing(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for good in ["tasks.cbor", "tasks/12.cbor", "a/b/c/d", "upper"] {
            check(good).unwrap();
        }
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", ".hidden", "a/.", "a/b/c/d/e", "a\0b", "a b"]
        {
            assert!(matches!(check(bad), Err(Error::Climbing(_))), "{bad:?}");
        }
        assert!(matches!(check(&"x".repeat(300)), Err(Error::Oversized { .. })));
    }
}
