//! The Debian packages that the tests need. Ferry itself and its demo need none.

use crate::run::{program, works};
use std::process::Command;

/// Package, and why a test needs it.
const NEEDED: [(&str, &str); 7] = [
    ("gcc", "builds the self-verifying programs"),
    ("libc6-dev", "headers for them"),
    (
        "redis-tools",
        "redis, moved under load (its redis-check-rdb is the server's program; no service is started)",
    ),
    ("python3", "a Python program, moved"),
    ("sqlite3", "a data base in the middle of a transaction, moved"),
    ("nftables", "the lock of adopted trees"),
    ("curl", "drives a whole move through the API"),
];

/// Installs what is missing, and says what and why.
pub fn install() -> Result<(), String> {
    let missing: Vec<_> = NEEDED.into_iter().filter(|(name, _)| !works("dpkg", &["-s", name])).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (name, why) in &missing {
        eprintln!("xtask: needs the Debian package {name}: {why}");
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    let by_hand = format!("apt-get install --no-install-recommends {}", names.join(" "));
    eprintln!("xtask: as root: {by_hand}");
    // A list that is not there yet makes the installation fail, and a stale one too: always ask for it first.
    program(Command::new("apt-get").args(["update", "-qq"]))
        .and_then(|()| {
            let options = ["install", "-y", "-qq", "--no-install-recommends"];
            program(
                Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(options).args(&names),
            )
        })
        .map_err(|why| format!("{why}; install them by hand: {by_hand}"))
}

/// Installs the test runner when it is missing.
pub fn install_nextest() -> Result<(), String> {
    if works("cargo", &["nextest", "--version"]) {
        return Ok(());
    }
    eprintln!("xtask: cargo-nextest is missing; installing it (once): cargo install cargo-nextest --locked");
    crate::run::cargo(&["install", "cargo-nextest", "--locked"], &[], &[])
}
