//! `/proc/PID/stat`: one line; the name stands in parentheses and may itself hold anything.

use super::Malformed;

/// What is used of the line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Process id, as the mount of `/proc` sees it.
    pub pid: i32,
    /// Name.
    pub comm: Vec<u8>,
    /// State letter: R, S, D, T, t, Z, X, I.
    pub state: u8,
    /// Parent.
    pub parent: i32,
    /// Process group.
    pub group: i32,
    /// Session.
    pub session: i32,
    /// Controlling terminal's device number; 0: none.
    pub terminal: i32,
    /// Foreground group of the terminal.
    pub foreground: i32,
    /// The kernel's own flags of the task (`PF_*`).
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Start time, clock ticks since boot.
    pub start_time: u64,
    /// start_code, end_code, start_stack.
    pub code: (u64, u64, u64),
    /// Signal sent to the parent at the end.
    pub exit_signal: i32,
    /// Processor that it last ran on.
    pub processor: i32,
    /// start_data, end_data, start_brk.
    pub data: (u64, u64, u64),
    /// arg_start, arg_end, env_start, env_end.
    pub arguments: (u64, u64, u64, u64),
    /// Exit code: of a zombie, or of a stop that nobody has collected.
    pub exit_code: i32,
}

/// Parses the line.
pub fn parse(line: &[u8]) -> Result<Stat, Malformed> {
    let bad = |what: &str| Malformed::new("stat", what);
    let open = line.iter().position(|byte| *byte == b'(').ok_or_else(|| bad("no name"))?;
    let close = line
        .iter()
        .rposition(|byte| *byte == b')')
        .filter(|close| *close > open)
        .ok_or_else(|| bad("no name"))?;
    let pid = std::str::from_utf8(&line[..open]).ok().and_then(|text| text.trim().parse().ok());
    let fields: Vec<&str> = std::str::from_utf8(&line[close + 1..])
        .map_err(|_| bad("not text"))?
        .split_ascii_whitespace()
        .collect();
    // Field numbers as proc(5) counts them: the state is field 3.
    let field = |number: usize| fields.get(number - 3).copied().ok_or_else(|| bad("too short"));
    let signed = |number: usize| field(number)?.parse::<i32>().map_err(|_| bad("a number"));
    let word = |number: usize| field(number)?.parse::<u64>().map_err(|_| bad("a number"));
    Ok(Stat {
        pid: pid.ok_or_else(|| bad("no pid"))?,
        comm: line[open + 1..close].to_vec(),
        state: field(3)?.as_bytes()[0],
        parent: signed(4)?,
        group: signed(5)?,
        session: signed(6)?,
        terminal: signed(7)?,
        foreground: signed(8)?,
        flags: word(9)?,
        nice: signed(19)?,
        start_time: word(22)?,
        code: (word(26)?, word(27)?, word(28)?),
        exit_signal: signed(38)?,
        processor: signed(39)?,
        data: (word(45)?, word(46)?, word(47)?),
        arguments: (word(48)?, word(49)?, word(50)?, word(51)?),
        exit_code: signed(52)?,
    })
}

/// Reads and parses `/proc/PID/stat`.
///
/// # Errors
/// ENOENT or ESRCH when it is gone.
pub fn read(pid: i32) -> std::io::Result<Stat> {
    Ok(parse(&super::read(pid, "stat")?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn own_line_is_understood() {
        let stat = read(std::process::id() as i32).unwrap();
        assert_eq!(stat.pid, std::process::id() as i32);
        // The line is the leader's, which may well wait for the thread that runs this test.
        assert!(matches!(stat.state, b'R' | b'S'), "{}", stat.state as char);
        assert!(stat.arguments.0 < stat.arguments.1 && stat.data.2 != 0);
    }

    #[test]
    fn a_name_may_hold_parentheses() {
        let line =
            format!("7 (a) R (b)) S {}", (4..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        let stat = parse(line.as_bytes()).unwrap();
        assert_eq!(
            (stat.comm.as_slice(), stat.state, stat.parent, stat.exit_code),
            (b"a) R (b)".as_slice(), b'S', 4, 52)
        );
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
