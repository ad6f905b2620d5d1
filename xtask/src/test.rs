//! `cargo xtask test`: everything, with one build. Its closing lines are the test runner's.

use crate::{packages, run};

#[derive(clap::Args)]
pub struct Args {
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Install nothing
    #[arg(long)]
    no_install: bool,
    /// Everything after it goes to nextest
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Runs the tests. Without root most of them cannot run; in Ferry that is a failure and not a skip, so say it first.
pub fn run(args: &Args) -> Result<(), String> {
    if !is_root() {
        return Err("the tests make namespaces, mounts and cgroups: run this as root".to_owned());
    }
    if !args.no_install {
        packages::install()?;
        packages::install_nextest()?;
    }
    let filter = args.filter.iter().map(String::as_str).collect::<Vec<_>>();
    let options = ["nextest", "run", "--release", "--workspace", "--profile", "ci"];
    run::cargo(&options, &filter, &args.rest)
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    // Real, effective, saved, file system.
    uids.split_ascii_whitespace().nth(1) == Some("0")
}
