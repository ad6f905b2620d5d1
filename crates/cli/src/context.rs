//! What a verb gets: the common options, a way to print, and the node's API. Only here are terminal and environment
//! looked at; the libraries below never do.

use crate::cli::Common;
use crate::client::Client;
use crate::failure::usage;
use crate::output::Output;
use ferry_model::error::Result;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What every verb works with.
pub struct Context {
    common: Common,
    /// Where results go.
    pub out: Output,
}

impl Context {
    /// Looks at the terminal once.
    pub fn new(common: Common) -> Self {
        let out = Output::stdout();
        Self { common, out }
    }

    /// Whether the result is for a program.
    pub fn json(&self) -> bool {
        self.common.json
    }

    /// Directory of what must outlive a reboot.
    pub fn state(&self) -> &Path {
        &self.common.state
    }

    /// Directory of the sockets.
    pub fn run_dir(&self) -> &Path {
        &self.common.run
    }

    /// The local node's socket.
    pub fn socket(&self) -> PathBuf {
        self.common.run.join("node.sock")
    }

    /// The API of the local node, or of the one that --api names. An error with a hint if no node answers.
    pub fn client(&self) -> Result<Client> {
        let Some(url) = &self.common.api else { return Client::connect(&self.socket()) };
        let identity = self.common.identity.as_ref().ok_or_else(|| {
            usage("--api needs the key and certificate of an operator")
                .hint("say with --identity DIR or FERRY_IDENTITY where they are")
                .hint("`ferry node operator NAME --out DIR` on the authority's node makes them")
        })?;
        Client::remote(url, identity)
    }

    /// For verbs that look at or change this host itself, without a node.
    ///
    /// # Errors
    /// `Usage` if another host was named.
    pub fn only_here(&self, verb: &str) -> Result<()> {
        match &self.common.api {
            None => Ok(()),
            Some(url) => Err(usage(format!("`ferry {verb}` is about this host, and {url} was named"))
                .hint("leave --api and FERRY_API away, or run it on that host")),
        }
    }

    /// Prints a result: as one JSON document, or by `human` for people.
    pub fn show<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&T, &mut dyn Write) -> std::io::Result<()>,
    ) -> Result<()> {
        let mut buffer = Vec::new();
        if self.json() {
            serde_json::to_writer_pretty(&mut buffer, value).map_err(|cause| crate::failure::bug(&cause))?;
            buffer.push(b'\n');
        } else {
            human(value, &mut buffer).map_err(|cause| crate::failure::bug(&cause))?;
        }
        self.out.write(&buffer)
    }

    /// Prints one value of a stream: as one line of JSON, or by `human`.
    pub fn show_line<T: Serialize>(&self, value: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
        let mut line = if self.json() {
            serde_json::to_string(value).map_err(|cause| crate::failure::bug(&cause))?
        } else {
            human(value)
        };
        line.push('\n');
        self.out.write(line.as_bytes())
    }
}
