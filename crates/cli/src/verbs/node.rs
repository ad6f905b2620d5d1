//! `ferry node`: make a fleet, start its nodes, let hosts in and put them out.

use crate::client::segment;
use crate::context::Context;
use crate::failure::usage;
use crate::output::date;
use crate::values;
use clap::Subcommand;
use ferry_model::api::{NodeStatus, OperatorRequest, OperatorSigned, Token, TokenRequest};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use ferry_node::{Config, trust};
use serde::Serialize;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Longest token file, bytes.
const TOKEN_BYTES_MAX: u64 = 4096;

/// Make, start and join nodes
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry node init --name alpha                  the first host makes the fleet's authority
  ferry node up --listen 192.0.2.1:7311         the node, in the foreground
  ferry node token beta > token                 on alpha: a token for one host, good once, for an hour
  ferry node join --token-file token            on beta, which then does `ferry node up`
  ferry node up --listen 192.0.2.1 --api-listen 192.0.2.1         operators may ask this node from elsewhere
  ferry node operator alice --out ./alice                         on alpha: what alice needs for that
  ferry --api https://alpha@192.0.2.1 --identity ./alice ps       as alice, anywhere
  ferry node rm alice                                             on alpha: not any more

Exit codes: 0 done; 1 cannot (no node answers, no authority here); 2 wrong command; 3 refused.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new fleet: its authority, and this host as its first member
    Init {
        /// This host's name in the fleet; without it, the host name
        #[arg(long)]
        name: Option<HostName>,
    },
    /// Run the node of this host, in the foreground
    Up {
        /// Address on which peers reach this node; without it, it serves only this host
        #[arg(long, value_name = "ADDR")]
        listen: Option<String>,
        /// Address on which operators reach this node's API; without it, only the local socket serves it
        #[arg(long, value_name = "ADDR")]
        api_listen: Option<String>,
        /// Address that peers are told, where it differs from the one listened on
        #[arg(long, value_name = "ADDR", requires = "listen")]
        advertise: Option<String>,
        /// Bridge that workloads with an address of their own are put on
        #[arg(long, value_name = "NAME", env = "FERRY_BRIDGE", default_value = "ferry0")]
        bridge: String,
        /// Keep this much of the memory of workloads that have left, readable by root only: who comes back brings only what has changed. Without it, nothing is kept
        #[arg(long, value_name = "SIZE", value_parser = values::size)]
        visits_max: Option<u64>,
    },
    /// Print a token by which one host can join, once, under this name
    Token {
        /// Name of the host that will join
        name: HostName,
        /// For how long the token is good
        #[arg(long, value_name = "SPAN", value_parser = values::span, default_value = "1h")]
        valid: Duration,
    },
    /// Join the fleet that a token is for
    Join {
        /// File with the token; without it, standard input. Never an argument: those are seen by every user of the host
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Where the authority is reached, if not where the token says
        #[arg(long, value_name = "ADDR")]
        address: Option<String>,
    },
    /// Make an operator, who may use the API of every node of the fleet from elsewhere, and do there what root may
    Operator {
        /// Name of the operator; no host has it
        name: HostName,
        /// New directory for the key, the certificate and the authority's certificate; for its owner only
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// For how long the certificate is good, at most two years
        #[arg(long, value_name = "SPAN", value_parser = values::span, default_value = "90d")]
        valid: Duration,
    },
    /// Say how the node of this host stands
    Status,
    /// Put a host or an operator out of the fleet, at once
    Rm {
        /// Its name
        name: HostName,
    },
}

/// Does what was asked.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Init { name } => {
            context.only_here("node init")?;
            init(context, name)?;
        }
        Command::Up { listen, api_listen, advertise, bridge, visits_max } => {
            context.only_here("node up")?;
            let config = Config {
                state: context.state().to_owned(),
                run: context.run_dir().to_owned(),
                listen,
                api_listen,
                advertise,
                bridge,
                visits_bytes_max: visits_max.unwrap_or(0),
                ferry: std::env::current_exe().map_err(|cause| Error::from_source(Kind::Unable, &cause))?,
            };
            start_log();
            ferry_node::up(config)?;
        }
        Command::Token { name, valid } => {
            let request = TokenRequest { name, valid_seconds: valid.as_secs().max(1) };
            let token: Token = context.client()?.post("/v1/tokens", &request)?;
            context.show(&token, |token, out| writeln!(out, "{}", token.token))?;
        }
        Command::Join { token_file, address } => {
            context.only_here("node join")?;
            join(context, token_file, address)?;
        }
        Command::Operator { name, out, valid } => operator(context, name, &out, valid)?,
        Command::Status => {
            let status: NodeStatus = context.client()?.get("/v1/node")?;
            context.show(&status, print_status)?;
        }
        Command::Rm { name } => {
            let path = format!("/v1/hosts/{}", segment(name.as_str()));
            let removed: ferry_model::api::Host = context.client()?.delete(&path)?;
            context.show(&removed, |host, out| {
                writeln!(out, "{} is out of the fleet; its connections were closed", host.name)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Joined {
    name: HostName,
    authority: HostName,
    fingerprint: String,
}

fn init(context: &Context, name: Option<HostName>) -> Result<()> {
    let name = match name {
        Some(name) => name,
        None => {
            let system = rustix::system::uname();
            let name = system.nodename().to_string_lossy().into_owned();
            HostName::new(name.clone()).map_err(|_| {
                usage(format!("This host's name '{name}' cannot be its name in a fleet"))
                    .hint("give one with --name")
            })?
        }
    };
    let identity = trust::init(context.state(), &name)?;
    let made =
        Joined { name: name.clone(), authority: name, fingerprint: identity.fingerprint().to_string() };
    context.show(&made, |made, out| {
        writeln!(out, "Made a fleet with {} as its authority", made.name)?;
        writeln!(out, "Fingerprint {}", made.fingerprint)?;
        writeln!(out, "Next: ferry node up --listen ADDR:PORT")
    })
}

fn join(context: &Context, token_file: Option<PathBuf>, address: Option<String>) -> Result<()> {
    let mut token = String::new();
    let read = match &token_file {
        Some(path) => {
            std::fs::File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut token))
        }
        None => std::io::stdin().lock().take(TOKEN_BYTES_MAX).read_to_string(&mut token),
    };
    read.map_err(|cause| Error::from_source(Kind::Usage, &cause).context("The token could not be read"))?;
    let identity = trust::join(context.state(), token.trim(), address.as_deref())?;
    let joined = Joined {
        name: identity.name().clone(),
        authority: identity.authority_node().clone(),
        fingerprint: identity.fingerprint().to_string(),
    };
    context.show(&joined, |joined, out| {
        writeln!(out, "Joined the fleet of {} as {}", joined.authority, joined.name)?;
        writeln!(out, "Next: ferry node up --listen ADDR:PORT")
    })
}

#[derive(Serialize)]
struct OperatorMade {
    name: HostName,
    directory: PathBuf,
    expires_unix: u64,
}

/// The key is made here and stays here; the node sees its public half.
fn operator(context: &Context, name: HostName, out: &Path, valid: Duration) -> Result<()> {
    let client = context.client()?;
    trust::operator::require_free(out)?;
    let (key, request) = trust::operator::request()?;
    let request = OperatorRequest { name, request, valid_seconds: valid.as_secs().max(1) };
    let signed: OperatorSigned = client.post("/v1/operators", &request)?;
    trust::operator::save(out, &key, &signed.certificate, &signed.authority)?;
    let made =
        OperatorMade { name: signed.name, directory: out.to_owned(), expires_unix: signed.expires_unix };
    context.show(&made, |made, to| {
        let (name, directory) = (&made.name, made.directory.display());
        writeln!(
            to,
            "{name} may use the API of every node until {}, with what is in {directory}",
            date(made.expires_unix)
        )?;
        writeln!(to, "Next: ferry --api https://HOST --identity {directory} ps")?;
        writeln!(to, "(HOST: a node that was started with --api-listen)")
    })
}

fn print_status(status: &NodeStatus, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(
        out,
        "{} (ferry {}), pid {}, up {} s",
        status.name, status.version, status.pid, status.uptime_seconds
    )?;
    match &status.listen {
        Some(listen) => writeln!(out, "listens on {listen}")?,
        None => writeln!(out, "listens to nobody: start it with --listen to have peers")?,
    }
    if let Some(api) = &status.api {
        writeln!(out, "serves its API to operators on {api}")?;
    }
    for operator in &status.operators {
        writeln!(out, "operator {}, until {}", operator.name, date(operator.expires_unix))?;
    }
    if status.visits_bytes_max > 0 {
        let (kept, most) =
            (crate::output::bytes(status.visits_bytes), crate::output::bytes(status.visits_bytes_max));
        writeln!(out, "keeps {kept} of at most {most} of the memory of workloads that have left")?;
    }
    let here = if status.authority.here { " (here)" } else { "" };
    writeln!(out, "authority {}{here}, fingerprint {}", status.authority.node, status.authority.fingerprint)?;
    writeln!(out, "{} workloads, {} moves under way", status.workloads, status.moves)
}

/// The node's own log goes to standard error; FERRY_LOG chooses what (`info` unless it is set).
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FERRY_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colour = crate::output::Output::stderr_is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
}
