//! The workload of the walk: numbered lines with a running checksum, and memory that it looks at each time, so that a line lost,
//! doubled or out of another life shows, and so does a damaged page.

use std::path::Path;

/// Factor of the running checksum.
const FACTOR: u64 = 31;
/// The checksum counts to here, as the program's does.
const MODULUS: u64 = 1 << 32;

/// The program. A full disk makes it wait.
pub const PROGRAM: &str = r#"
my ($n, $sum, $total, $memory) = (0, 0, 0, "\0" x 65536);
while (1) {
    my $at = $n % length $memory;
    my ($old, $new) = (vec($memory, $at, 8), ($n * 7 + 3) % 256);
    vec($memory, $at, 8) = $new;
    $total += $new - $old;
    $sum = ($sum * 31 + $n) % 4294967296;
    my $line = "$n $sum " . (unpack("%32C*", $memory) == $total ? "whole" : "damaged") . "\n";
    while (length $line) {
        my $written = syswrite STDOUT, $line;
        defined $written ? substr($line, 0, $written, "") : select(undef, undef, undef, 0.005);
    }
    $n++;
    select(undef, undef, undef, 0.005);
}
"#;

/// How far a log has counted.
///
/// # Errors
/// The line that does not follow from those before it.
pub fn counted(log: &Path) -> Result<u64, String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
    let mut sum = 0u64;
    for (number, line) in (0u64..).zip(whole.lines()) {
        sum = (sum * FACTOR + number) % MODULUS;
        if line != format!("{number} {sum} whole") {
            return Err(format!(
                "line {number} of {} is {line:?}, its checksum should be {sum}",
                log.display()
            ));
        }
    }
    Ok(whole.lines().count() as u64)
}
