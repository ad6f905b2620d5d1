//! A lab with nodes that trust each other: what nearly every test of a move begins with.

use crate::error::{Error, Result};
use crate::host::{Host, Process};
use crate::lab::Lab;
use crate::link::BRIDGE;
use crate::spec::HostSpec;
use std::path::Path;
use std::time::{Duration, Instant};

/// Port on which nodes listen to their peers.
const PORT: u16 = 7311;
/// How long a node may take until it answers.
const NODE_MAX: Duration = Duration::from_secs(20);
/// Where `ferry` is on every host.
pub const FERRY: &str = "/usr/local/bin/ferry";

/// Hosts with a node each; the first one's is the authority.
pub struct Fleet {
    /// The lab; more hosts (without a node) may be added.
    pub lab: Lab,
    /// The hosts with a node.
    pub nodes: Vec<Host>,
    daemons: Vec<Process>,
    /// Of every `ferry node up`, besides where it listens.
    options: Vec<String>,
}

impl Fleet {
    /// Makes a lab from `ferry` with one host for each spec, starts a node on each, and joins them.
    ///
    /// # Errors
    /// What could not be made, or what a command of `ferry node` said.
    pub fn start(ferry: &Path, specs: Vec<HostSpec>) -> Result<Self> {
        Self::start_with(ferry, specs, &[])
    }

    /// As [`Self::start`], with further options for every `ferry node up`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(ferry: &Path, specs: Vec<HostSpec>, options: &[&str]) -> Result<Self> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut fleet = Self { lab: Lab::new(ferry)?, nodes: Vec::new(), daemons: Vec::new(), options };
        for (number, mut spec) in specs.into_iter().enumerate() {
            // Hosts have been up for different times; a clock that is not carried along is noticed.
            if spec.clock_ahead_s == 0 {
                spec.clock_ahead_s = 100_000 * (number as i64 + 1);
            }
            let host = fleet.lab.add(spec)?;
            if let Some(authority) = fleet.nodes.first() {
                let token = authority.ok(&[FERRY, "node", "token", host.name()])?;
                host.write("/root/token", token.as_bytes())?;
                host.ok(&[FERRY, "node", "join", "--token-file", "/root/token"])?;
            } else {
                host.ok(&[FERRY, "node", "init", "--name", host.name()])?;
            }
            fleet.daemons.push(node_up(&host, &fleet.options)?);
            fleet.nodes.push(host);
        }
        Ok(fleet)
    }

    /// Starts the node of a host again, after it was killed or the host was rebooted.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart_node(&mut self, number: usize) -> Result<()> {
        self.daemons[number] = node_up(&self.nodes[number], &self.options)?;
        Ok(())
    }

    /// The node's process on a host: its pid there, and what it has said.
    #[must_use]
    pub fn daemon(&self, number: usize) -> &Process {
        &self.daemons[number]
    }
}

fn node_up(host: &Host, options: &[String]) -> Result<Process> {
    let listen = format!("{}:{PORT}", host.address());
    let mut command = vec![FERRY, "node", "up", "--listen", &listen, "--bridge", BRIDGE];
    command.extend(options.iter().map(String::as_str));
    let daemon = host.spawn(&command)?;
    let deadline = Instant::now() + NODE_MAX;
    while host.run(&[FERRY, "node", "status"])?.code != 0 {
        if daemon.has_ended() || Instant::now() > deadline {
            let said = format!("{}{}", daemon.stdout(), daemon.stderr());
            return Err(Error::Helper(format!(
                "The node on {} does not come up: {}",
                host.name(),
                said.trim()
            )));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(daemon)
}
