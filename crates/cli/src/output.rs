//! Printing to standard output. A reader that went away (`ferry ps | head -1`) is not an error: the command ends at
//! once with 0, as if it had printed all.

use ferry_model::error::{Error, Kind, Result};
use std::io::{ErrorKind, IsTerminal, Write};

/// Standard output, looked at once.
pub struct Output {
    colour: bool,
}

impl Output {
    /// Colours only on a terminal, and not if NO_COLOR is set to anything.
    pub fn stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour }
    }

    /// Whether a person watches standard error.
    pub fn stderr_is_terminal() -> bool {
        std::io::stderr().is_terminal()
    }

    /// Writes bytes as they are.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(cause) if cause.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
            Err(cause) => Err(Error::from_source(Kind::Unable, &cause)
                .context("The result could not be written to standard output")),
        }
    }

    /// `text` in a style, on terminals.
    pub fn paint(&self, style: Style, text: &str) -> String {
        if self.colour { format!("\x1b[{}m{text}\x1b[0m", style.code()) } else { text.to_owned() }
    }
}

/// The few styles that Ferry uses.
#[derive(Clone, Copy)]
pub enum Style {
    /// Works, done.
    Good,
    /// Does not, or stands in the way.
    Bad,
    /// Less important.
    Dim,
    /// Headings.
    Bold,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "31",
            Self::Dim => "2",
            Self::Bold => "1",
        }
    }
}

/// Columns that are as wide as their widest cell, two spaces apart; the last one is not padded.
pub fn table(out: &mut dyn Write, header: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let head: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Bytes for people: `512 B`, `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A span of time for people.
pub fn span_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// A day in UTC, `2027-02-20`, from seconds since 1970.
pub fn date(unix: u64) -> String {
    // Days since the first of March of the year 0: leap days come last in such a year.
    let days = unix / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let (month, next) = if shifted < 10 { (shifted + 3, 0) } else { (shifted - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year_of_era + next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let mut text = Vec::new();
        let rows = [vec!["web".to_owned(), "running".to_owned()], vec!["x".to_owned(), String::new()]];
        table(&mut text, &["NAME", "STATE"], &rows).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "NAME  STATE\nweb   running\nx\n");
    }

    #[test]
    fn sizes_and_spans_read_well() {
        assert_eq!([bytes(512), bytes(1536), bytes(1 << 30)], ["512 B", "1.5 KiB", "1.0 GiB"]);
        assert_eq!([span_us(12), span_us(1500), span_us(2_500_000)], ["12 µs", "1.5 ms", "2.50 s"]);
    }

    #[test]
    fn days_are_dates() {
        for (unix, day) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_798_761_600, "2027-01-01"),
            (4_107_542_399, "2100-02-28"),
        ] {
            assert_eq!(date(unix), day);
        }
    }
}
