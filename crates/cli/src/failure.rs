//! How an error reaches a person: kind and sentence, numbered causes, hints. With `--json` the same as data.

use ferry_model::error::{Error, Kind};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Prints `error` to standard error and gives the exit code of its kind.
pub fn report(error: &Error, json: bool) -> ExitCode {
    let colour =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = if json { as_json(error) } else { as_text(error, colour) };
    // Nobody is left to tell if standard error is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(error.kind.exit_code())
}

/// A bug: something that cannot happen did.
pub fn bug(cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::from_source(Kind::Bug, cause)
}

/// A wrong value on the command line.
pub fn usage(message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message)
}

fn as_json(error: &Error) -> String {
    let value = serde_json::json!({ "error": error });
    format!("{value}\n")
}

fn as_text(error: &Error, colour: bool) -> String {
    let (red, dim, plain) = if colour { ("\x1b[1;31m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("{red}{}:{plain} {}\n", error.kind.prefix(), error.message);
    for (number, cause) in (1..).zip(&error.causes) {
        text.push_str(&format!("  {dim}{number}.{plain} {cause}\n"));
    }
    for hint in &error.hints {
        text.push_str(&format!("  {dim}hint:{plain} {hint}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_sentence_numbered_causes_and_hints() {
        let error = Error::new(Kind::Unable, "connection refused")
            .context("The node did not answer")
            .hint("ferry node up");
        let text = "Cannot: The node did not answer\n  1. connection refused\n  hint: ferry node up\n";
        assert_eq!(as_text(&error, false), text);
        let json: serde_json::Value = serde_json::from_str(&as_json(&error)).unwrap();
        assert_eq!(json["error"]["kind"], "unable");
        assert_eq!(json["error"]["causes"][0], "connection refused");
    }
}
