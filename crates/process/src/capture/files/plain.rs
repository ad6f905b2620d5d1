//! Files, directories and devices with a name: a path, a position, flags.

use super::Error;
use super::class::Class;
use super::survey::Look;
use crate::records::file::Kind;

/// What a description with a path is.
pub(super) fn capture(look: &Look) -> Result<Kind, Error> {
    let path = match &look.class {
        Class::Elsewhere(path) => path.clone(),
        _ => look.link.clone(),
    };
    Ok(match look.class {
        Class::Directory => Kind::Directory { path },
        Class::Device(major, minor) => Kind::Device { path, major, minor },
        _ => {
            let regular = rustix::fs::FileType::from_raw_mode(look.stat.st_mode).is_file();
            let made_up = [&b"/proc/"[..], b"/sys/"].iter().any(|prefix| path.starts_with(prefix));
            Kind::File { path, size: (regular && !made_up).then_some(look.stat.st_size as u64) }
        }
    })
}
