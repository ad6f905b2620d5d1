//! Small pieces of text: numbers in bytes, octal escapes in paths.

/// A decimal number at the front of `bytes`, and the rest.
#[must_use]
pub fn decimal(bytes: &[u8]) -> Option<(u64, &[u8])> {
    digits(bytes, 10)
}

/// A hexadecimal number at the front of `bytes`, and the rest.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> Option<(u64, &[u8])> {
    digits(bytes, 16)
}

fn digits(bytes: &[u8], radix: u32) -> Option<(u64, &[u8])> {
    let mut value: u64 = 0;
    let mut at = 0;
    while let Some(digit) = bytes.get(at).and_then(|byte| char::from(*byte).to_digit(radix)) {
        value = value.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))?;
        at += 1;
    }
    (at > 0).then(|| (value, &bytes[at..]))
}

/// A whole decimal number with an optional sign.
#[must_use]
pub fn signed(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

/// Undoes the kernel's `\012` escapes (only newline is escaped in maps, and the backslash itself is not).
#[must_use]
pub fn unescape_newlines(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        if path[at..].starts_with(b"\\012") {
            out.push(b'\n');
            at += 4;
        } else {
            out.push(path[at]);
            at += 1;
        }
    }
    out
}
