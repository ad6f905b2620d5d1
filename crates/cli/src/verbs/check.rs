//! `ferry check`: what this host can do, each feature probed by its effect. Needs no node running and changes nothing.

use crate::context::Context;
use crate::output::Style;
use ferry_model::error::{Kind, Result};
use ferry_sys::features::{Feature, Need, probe};
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Say what this host can do, and what is lost where it cannot
///
/// Every feature of the kernel is probed by doing it, in namespaces and cgroups made for that and removed again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry check
  ferry check --json | jq '.features[] | select(.works | not)'

Exit codes: 0 workloads run and move here (some features may be missing); 1 they do not.")]
pub struct Args {}

#[derive(Serialize)]
struct Report {
    features: Vec<Row>,
    usable: bool,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    works: bool,
    required: bool,
    detail: String,
    needed_for: &'static str,
    cost_if_missing: &'static str,
}

impl From<Feature> for Row {
    fn from(feature: Feature) -> Self {
        let Feature { name, works, detail, cost_if_missing, needed_for, need } = feature;
        Self { name, works, required: need == Need::Always, detail, needed_for, cost_if_missing }
    }
}

/// Probes.
pub fn run(context: &Context, _: Args) -> Result<ExitCode> {
    // The state directory may not exist yet: then the file system that will hold it counts.
    let state = context.state();
    let present = state.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let features: Vec<Row> = probe(present).into_iter().map(Row::from).collect();
    let usable = features.iter().all(|row| row.works || !row.required);
    let report = Report { features, usable };
    context.show(&report, |report, out| print(context, report, out))?;
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::from(Kind::Unable.exit_code()) })
}

fn print(context: &Context, report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let width = report.features.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in &report.features {
        let word = match (row.works, row.required) {
            (true, _) => context.out.paint(Style::Good, "yes"),
            (false, true) => context.out.paint(Style::Bad, "NO "),
            (false, false) => context.out.paint(Style::Bad, "no "),
        };
        writeln!(out, "{word}  {:width$}  {}", row.name, row.needed_for)?;
        if !row.works {
            writeln!(out, "     {:width$}  {}; {}", "", row.detail, row.cost_if_missing)?;
        }
    }
    let missing = report.features.iter().filter(|row| !row.works).count();
    let verdict = match (report.usable, missing) {
        (true, 0) => "Everything that Ferry uses works here".to_owned(),
        (true, missing) => {
            format!("Workloads run and move here; {missing} features are missing, at the price given above")
        }
        (false, _) => {
            "Workloads cannot run and move here: what is marked NO is needed for all of them".to_owned()
        }
    };
    writeln!(out, "{verdict}")
}
