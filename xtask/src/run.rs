//! Running other programs, in plain sight.

use std::process::{Command, Stdio};

/// Runs cargo with `first`, `then` and `rest`; its output is ours.
pub fn cargo(first: &[&str], then: &[&str], rest: &[String]) -> Result<(), String> {
    cargo_with(&[], first, then, rest)
}

/// As [`cargo`], with more in its environment.
pub fn cargo_with(
    env: &[(&str, &str)],
    first: &[&str],
    then: &[&str],
    rest: &[String],
) -> Result<(), String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    program(Command::new(cargo).envs(env.iter().copied()).args(first).args(then).args(rest))
}

/// Runs a program to its end.
pub fn program(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} ended with {status}")),
        Err(error) => Err(format!("{name} cannot be started: {error}")),
    }
}

/// Whether a program can be started and likes its arguments.
pub fn works(program: &str, args: &[&str]) -> bool {
    let quiet = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}
