//! Values on the command line: sizes, processors, durations, signals, paths with a binding.

use ferry_model::api::With;
use ferry_model::resource::Binding;
use std::time::Duration;

/// Bytes with an optional unit: `64M`, `1.5GiB`, `4096`.
pub fn size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(format!("the unit '{unit}' is not one of K, M, G, T")),
    };
    let number: f64 =
        number.parse().map_err(|_| "a number with an optional K, M, G or T is expected".to_owned())?;
    let bytes = number * (1_u64 << shift) as f64;
    if bytes < 1.0 || bytes > (1_u64 << 52) as f64 {
        Err("out of range".to_owned())
    } else {
        Ok(bytes as u64)
    }
}

/// Processors, as thousandths: `0.5`, `2`.
pub fn processors(text: &str) -> Result<u64, String> {
    let number: f64 =
        text.parse().map_err(|_| "a number of processors is expected, such as 0.5 or 2".to_owned())?;
    if (0.001..=100_000.0).contains(&number) {
        Ok((number * 1000.0).round() as u64)
    } else {
        Err("out of range".to_owned())
    }
}

/// A span of time: `500ms`, `10s`, `5m`, `2h`, or seconds.
pub fn span(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 =
        number.parse().map_err(|_| "a span such as 500ms, 10s, 5m or 2h is expected".to_owned())?;
    let seconds = match unit {
        "us" | "µs" => number / 1e6,
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86_400.0,
        _ => return Err(format!("the unit '{unit}' is not one of us, ms, s, m, h, d")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| "out of range".to_owned())
}

/// Bytes in a second: `1Gbit`, `100Mbit`, `128MiB`, each with or without `/s`. Bits count in thousands, bytes in 1024s.
pub fn rate(text: &str) -> Result<u64, String> {
    let expected = || "a rate such as 1Gbit, 100Mbit or 128MiB/s is expected".to_owned();
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("/s").unwrap_or(&lower);
    let Some(bits) = lower.strip_suffix("bit").or_else(|| lower.strip_suffix("bits")) else {
        return if lower.ends_with('b') { size(lower).map_err(|_| expected()) } else { Err(expected()) };
    };
    let end = bits.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(bits.len());
    let (number, unit) = bits.split_at(end);
    let factor = match unit {
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        _ => return Err(format!("the unit '{unit}bit' is not one of kbit, Mbit, Gbit, Tbit")),
    };
    let number: f64 = number.parse().map_err(|_| expected())?;
    let bytes = number * factor / 8.0;
    if (1.0..=1e15).contains(&bytes) { Ok(bytes as u64) } else { Err("out of range".to_owned()) }
}

/// A signal by name or number: `TERM`, `SIGTERM`, `15`.
pub fn signal(text: &str) -> Result<i32, String> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err("signals are 1 to 64".to_owned()) };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let at = NAMES
        .iter()
        .position(|known| *known == name)
        .ok_or_else(|| format!("there is no signal '{text}'"))?;
    Ok(i32::try_from(at).unwrap_or(0) + 1)
}

/// `PATH[:binding]` with the binding `identifier` (the default: exactly this one), `value` (a copy will do) or `type`
/// (anything of the kind).
pub fn with(text: &str) -> Result<With, String> {
    let (path, binding) = match text.rsplit_once(':') {
        None => (text, Binding::Identifier),
        Some((path, "identifier")) => (path, Binding::Identifier),
        Some((path, "value")) => (path, Binding::Value),
        Some((path, "type")) => (path, Binding::Type),
        Some((_, other)) if !other.contains('/') => {
            return Err(format!("the binding '{other}' is not one of identifier, value, type"));
        }
        Some(_) => (text, Binding::Identifier),
    };
    if !path.starts_with('/') {
        return Err("an absolute path is expected".to_owned());
    }
    Ok(With { path: path.to_owned(), binding })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("1.5GiB"), Ok(3 << 29));
        for bad in ["", "12X", "-1", "1e9", "0", "99999999T"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rates_are_of_bits_or_of_bytes_and_say_which() {
        assert_eq!(rate("1Gbit"), Ok(125_000_000));
        assert_eq!(rate("100Mbit/s"), Ok(12_500_000));
        assert_eq!(rate("128MiB/s"), Ok(128 << 20));
        assert_eq!(rate("1.5MB"), Ok(3 << 19));
        for bad in ["", "1G", "100", "1Xbit", "-1Gbit", "1e9bit", "bit", "b", "0Gbit"] {
            assert!(rate(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(signal("TERM"), Ok(15));
        assert_eq!(signal("sigkill"), Ok(9));
        assert_eq!(signal("SYS"), Ok(31));
        assert_eq!(signal("34"), Ok(34));
        assert!(signal("0").is_err() && signal("65").is_err() && signal("NOPE").is_err());
    }

    #[test]
    fn a_path_may_have_a_binding() {
        assert_eq!(with("/srv/data").unwrap().binding, Binding::Identifier);
        assert_eq!(
            with("/srv/data:value").unwrap(),
            With { path: "/srv/data".to_owned(), binding: Binding::Value }
        );
        assert_eq!(with("/srv/a:b/c").unwrap().path, "/srv/a:b/c");
        assert!(with("/srv:copy").is_err() && with("srv").is_err());
    }

    #[test]
    fn spans_and_processors() {
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("2h"), Ok(Duration::from_secs(7200)));
        assert!(span("5 parsecs").is_err());
        assert_eq!(processors("0.5"), Ok(500));
        assert!(processors("0").is_err());
    }
}
