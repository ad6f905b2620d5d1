//! What the command line says of itself: every verb says what it is, shows an example and names its exit codes; completions
//! and man pages come from the same definitions; a reader that goes away is no error.

use std::io::Read;
use std::process::{Command, Output, Stdio};

fn ferry(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ferry")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn help(args: &[&str]) -> String {
    let output = ferry(&[args, &["--help"]].concat());
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs of the main help.
fn verbs() -> Vec<String> {
    let text = help(&[]);
    let list = text.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap().to_owned();
    list.lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_verb_shows_an_example_and_names_its_exit_codes() {
    let verbs = verbs();
    for wanted in
        ["node", "host", "run", "adopt", "ps", "show", "logs", "attach", "exec", "wait", "stop", "kill", "rm"]
    {
        assert!(verbs.iter().any(|verb| verb == wanted), "{wanted} is missing: {verbs:?}");
    }
    for wanted in ["plan", "move", "pull", "moves", "clone", "recover", "doctor", "completions", "man"] {
        assert!(verbs.iter().any(|verb| verb == wanted), "{wanted} is missing: {verbs:?}");
    }
    assert!(!verbs.iter().any(|verb| verb == "shim"), "hidden verbs are hidden");
    for verb in &verbs {
        let text = help(&[verb]);
        assert!(text.contains("Example"), "ferry {verb} --help shows no example:\n{text}");
        assert!(text.contains("Exit codes"), "ferry {verb} --help names no exit codes:\n{text}");
    }
}

#[test]
fn a_wrong_command_is_exit_code_2_and_a_verb_that_needs_a_node_says_so() {
    assert_eq!(ferry(&["nonsense"]).status.code(), Some(2));
    assert_eq!(ferry(&["move", "web"]).status.code(), Some(2), "--to is missing");
    let output = ferry(&["--run", "/nonexistent/ferry", "ps"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No node answers"));
}

#[test]
fn completions_know_the_verbs_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = ferry(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("recover") && text.contains("doctor"), "{shell}");
    }
}

#[test]
fn there_is_a_man_page_for_each_verb_and_its_own_verbs() {
    let dir = tempfile::tempdir().unwrap();
    let output = ferry(&["man", dir.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for page in ["ferry.1", "ferry-move.1", "ferry-node-join.1", "ferry-moves-follow.1"] {
        let text =
            std::fs::read_to_string(dir.path().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH NAME"), "{page}");
    }
    assert!(!dir.path().join("ferry-shim.1").exists());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
    let mut child =
        command.args(["completions", "zsh"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}
