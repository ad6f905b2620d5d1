//! `ferry man`: manual pages, generated from the same definitions that parse the command line.

use crate::cli::Cli;
use crate::context::Context;
use clap::CommandFactory;
use ferry_model::error::{Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write man pages
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry man /usr/local/share/man/man1      one page for each verb
  ferry man | man -l -                     the first page, to look at

Exit codes: 0 done; 1 the directory cannot be written.")]
pub struct Args {
    /// Directory to write them to; without it, the page of `ferry` goes to standard output
    dir: Option<PathBuf>,
}

/// Writes them.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    let Some(dir) = args.dir else {
        context.out.write(&page(&command, "ferry")?)?;
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(&dir).map_err(|cause| unwritable(&dir, &cause))?;
    let mut written = Vec::new();
    write(&command, "ferry", &dir, &mut written)?;
    context.show(&written, |written, out| {
        written.iter().try_for_each(|path| writeln!(out, "{}", path.display()))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn write(command: &clap::Command, name: &str, dir: &Path, written: &mut Vec<PathBuf>) -> Result<()> {
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page(command, name)?).map_err(|cause| unwritable(&path, &cause))?;
    written.push(path);
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        write(sub, &format!("{name}-{}", sub.get_name()), dir, written)?;
    }
    Ok(())
}

fn page(command: &clap::Command, name: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let man = clap_mangen::Man::new(command.clone()).title(name);
    man.render(&mut text).map_err(|cause| crate::failure::bug(&cause))?;
    Ok(text)
}

fn unwritable(path: &Path, cause: &std::io::Error) -> Error {
    Error::from_source(Kind::Unable, cause).context(format!("{} could not be written", path.display()))
}
