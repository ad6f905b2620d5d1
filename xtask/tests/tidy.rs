//! Rules of the house that no compiler checks. Each failure names the file and says what to do about it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest source file, in lines. Past it there are two subjects in it.
const LINES_MAX: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every text file that git knows, with its content.
fn files() -> Vec<(String, String)> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    let known = names.split('\0').filter(|name| {
        let end = Path::new(name).extension().and_then(|end| end.to_str()).unwrap_or_default();
        ["rs", "md", "c", "h", "toml", "sh", "yml", "html", "js"].contains(&end) || name.starts_with(".ci/")
    });
    let read =
        |name: &str| std::fs::read_to_string(root().join(name)).ok().map(|text| (name.to_owned(), text));
    let files: Vec<_> = known.filter_map(read).collect();
    assert!(files.len() > 50, "only {} files: the list is wrong", files.len());
    files
}

fn nothing(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn layers_depend_only_downwards() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut allowed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, _, uses] = cells[..] else { continue };
        let above: BTreeSet<_> = allowed.keys().cloned().collect();
        let mut set = BTreeSet::new();
        for word in uses.split(',').map(|word| word.split('(').next().unwrap_or_default().trim()) {
            match word {
                "-" => {}
                "all above" => set.extend(above.iter().cloned()),
                word => {
                    set.insert(word.trim_matches('`').to_owned());
                }
            }
        }
        allowed.insert(name.trim_matches('`').to_owned(), set);
    }
    assert!(allowed.len() >= 8, "the table of layers in ARCHITECTURE.md was not found");

    let mut found = Vec::new();
    for (file, text) in files() {
        let Some(name) = file.strip_prefix("crates/").and_then(|rest| rest.strip_suffix("/Cargo.toml"))
        else {
            continue;
        };
        let Some(allowed) = allowed.get(name) else {
            found.push(format!("{file}: the table of layers in ARCHITECTURE.md has no line for `{name}`"));
            continue;
        };
        let mut section = "";
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let used = line.strip_prefix("ferry-").and_then(|rest| rest.split(['.', ' ', '=']).next());
            if let (Some(used), "[dependencies]") = (used, section)
                && !allowed.contains(used)
            {
                found.push(format!("{file}: `{name}` may not use `{used}` (ARCHITECTURE.md, Layers)"));
            }
        }
    }
    nothing(found);
}

#[test]
fn unsafe_code_stands_in_sys_alone() {
    let word = ["uns", "afe"].concat();
    let opened = ["{", "fn", "impl", "extern", "trait"];
    let mut found = Vec::new();
    for (file, text) in files() {
        if !file.ends_with(".rs") || file.starts_with("crates/sys/") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let mut words = code.split_whitespace().skip_while(|one| !one.ends_with(&word)).skip(1);
            let blocks = code.contains(&word) && words.next().is_some_and(|next| opened.contains(&next));
            if blocks || code.contains(&format!("allow({word}_code)")) {
                found.push(format!("{file}:{}: {word} code belongs in crates/sys", number + 1));
            }
        }
    }
    nothing(found);
}

#[test]
fn files_have_one_subject() {
    let mut found = Vec::new();
    for (file, text) in files() {
        let source = file.ends_with(".rs") || file.ends_with(".c") || file.ends_with(".h");
        let lines = text.lines().count();
        if source && lines > LINES_MAX {
            found.push(format!("{file}: {lines} lines; past {LINES_MAX} there are two subjects in it"));
        }
        if file.ends_with(".rs") && file.contains("/src/") && !text.starts_with("//!") {
            found.push(format!("{file}: opens without a paragraph (`//!`) that says what it does and why"));
        }
    }
    nothing(found);
}

#[test]
fn no_markers_are_left() {
    // Written apart, so that this file does not find itself.
    let markers = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["X", "XX:"],
        ["HA", "CK:"],
        ["Place", "holder."],
        ["dbg", "!("],
        ["todo", "!("],
        ["unimpl", "emented!("],
        ["<<<<", "<<<"],
        [">>>>", ">>>"],
    ]
    .map(|parts| parts.concat());
    let mut found = Vec::new();
    for (file, text) in files() {
        for (number, line) in text.lines().enumerate() {
            for marker in markers.iter().filter(|marker| line.contains(marker.as_str())) {
                found.push(format!("{file}:{}: `{marker}` is left", number + 1));
            }
        }
    }
    nothing(found);
}

#[test]
fn no_path_of_a_build_machine() {
    let places = [["/wo", "rk/"], ["/ro", "ot/."], ["regis", "try/src"], ["/home/run", "ner"]]
        .map(|parts| parts.concat());
    let mut found = Vec::new();
    for (file, text) in files() {
        for (number, line) in text.lines().enumerate() {
            for place in &places {
                let begins =
                    |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "}>./_-*".contains(c));
                if line.match_indices(place.as_str()).any(|(at, _)| begins(at)) {
                    found.push(format!("{file}:{}: `{place}` is a path of somebody's machine", number + 1));
                }
            }
        }
    }
    nothing(found);
}

#[test]
fn links_in_docs_lead_somewhere() {
    let mut found = Vec::new();
    for (file, text) in files() {
        if !file.ends_with(".md") {
            continue;
        }
        let folder = root().join(Path::new(&file).parent().unwrap());
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = if path.is_empty() { root().join(&file) } else { folder.join(path) };
            if !to.exists() {
                found.push(format!("{file}: the link to `{target}` leads nowhere"));
            } else if !anchor.is_empty() {
                let there = std::fs::read_to_string(&to).unwrap_or_default();
                if !there.lines().filter(|line| line.starts_with('#')).any(|line| slug(line) == anchor) {
                    found.push(format!("{file}: `{target}`: there is no such heading"));
                }
            }
        }
    }
    nothing(found);
}

/// A heading's anchor, as the usual renderers make it.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn decisions_have_their_sections() {
    let mut found = Vec::new();
    for (file, text) in files() {
        if !file.starts_with("docs/decisions/") || file.ends_with("README.md") {
            continue;
        }
        for section in ["## Context", "## Decision", "## Rejected", "## Consequences"] {
            if !text.lines().any(|line| line == section) {
                found.push(format!("{file}: has no section `{section}`"));
            }
        }
    }
    nothing(found);
}
