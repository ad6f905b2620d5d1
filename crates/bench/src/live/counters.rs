//! What the kernel of a network namespace has counted of TCP: why somebody waited longer than the workload stood still.

use ferry_lab::Host;
use std::collections::BTreeMap;

/// Counters that tell of losses and time-outs.
const TELLING: [&str; 14] = [
    "RetransSegs",
    "TCPTimeouts",
    "TCPLossProbes",
    "TCPLossProbeRecovery",
    "TCPFastRetrans",
    "TCPSlowStartRetrans",
    "TCPLostRetransmit",
    "TCPSpuriousRTOs",
    "TCPACKSkippedSeq",
    "TCPChallengeACK",
    "PAWSEstab",
    "TCPDSACKRecv",
    "OutOfWindowIcmps",
    "TCPOFOQueue",
];

/// Counts by name.
pub type Counters = BTreeMap<String, i64>;

/// As the clients' host has them.
#[must_use]
pub fn of(host: &Host) -> Counters {
    parse(&host.sh("cat /proc/net/snmp /proc/net/netstat").unwrap_or_default())
}

/// Two lines for each protocol: names, then numbers.
#[must_use]
pub fn parse(text: &str) -> Counters {
    let lines: Vec<&str> = text.lines().collect();
    let mut all = Counters::new();
    for pair in lines.chunks(2) {
        let [names, numbers] = pair else { continue };
        for (name, number) in names.split_whitespace().zip(numbers.split_whitespace()) {
            if TELLING.contains(&name)
                && let Ok(number) = number.parse()
            {
                all.insert(name.to_owned(), number);
            }
        }
    }
    all
}

/// What has been counted between two looks, in words; empty: nothing of it.
#[must_use]
pub fn since(before: &Counters, after: &Counters) -> String {
    let grown = after.iter().filter_map(|(name, number)| {
        let more = number - before.get(name).copied().unwrap_or(0);
        (more != 0).then(|| format!("{name} {more}"))
    });
    grown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_grown_is_named() {
        let before = parse("Tcp: RtoMin RetransSegs\nTcp: 200 3\nTcpExt: TCPTimeouts Other\nTcpExt: 1 7\n");
        let after = parse("Tcp: RtoMin RetransSegs\nTcp: 200 5\nTcpExt: TCPTimeouts Other\nTcpExt: 1 9\n");
        assert_eq!(since(&before, &after), "RetransSegs 2");
    }
}
