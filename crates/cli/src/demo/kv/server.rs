//! The server: a thread for each connection, shards behind locks, one thread that writes a line now and then.

use super::protocol::{Operation, Reply, Request, fill_value};
use ferry_model::error::{Error, Kind, Result};
use std::collections::HashMap;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// Locks over which the keys are spread.
const SHARDS: u64 = 64;

/// A multi-threaded key-value server for the demo
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(long, default_value = "0.0.0.0:6380")]
    listen: SocketAddr,
    /// Number of keys, each with 4 KiB
    #[arg(long, default_value_t = 65_536)]
    keys: u64,
}

type Shard = Mutex<HashMap<u64, Vec<u8>>>;

/// Fills the store, says `ready`, and serves for ever.
pub fn run(args: Args) -> Result<ExitCode> {
    let fail = |error: io::Error| {
        Error::from_source(Kind::Unable, &error).context(format!("Cannot serve at {}", args.listen))
    };
    let store: Arc<Vec<Shard>> = Arc::new((0..SHARDS).map(|_| Shard::default()).collect());
    fill(&store, args.keys);
    let listener = TcpListener::bind(args.listen).map_err(fail)?;
    println!("ready");
    for stream in listener.incoming() {
        let stream = stream.map_err(fail)?;
        let store = Arc::clone(&store);
        std::thread::spawn(move || {
            if let Err(error) = serve(&store, &stream) {
                // Into the workload's log: a broken connection would be the move's fault.
                let _ = writeln!(io::stderr(), "connection: {error}");
            }
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn fill(store: &Arc<Vec<Shard>>, keys: u64) {
    std::thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || {
                for key in (part..keys).step_by(4) {
                    let mut value = Vec::with_capacity(super::protocol::VALUE_BYTES);
                    fill_value(key, 0, &mut value);
                    shard(store, key).lock().unwrap_or_else(PoisonError::into_inner).insert(key, value);
                }
            });
        }
    });
}

fn shard(store: &[Shard], key: u64) -> &Shard {
    &store[(key % SHARDS) as usize]
}

fn serve(store: &[Shard], stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut writer = BufWriter::new(stream);
    let mut count = 0;
    while let Some(request) = Request::read(&mut reader)? {
        count += 1;
        let mut values = shard(store, request.key).lock().unwrap_or_else(PoisonError::into_inner);
        let value = match request.operation {
            Operation::Get => values.get(&request.key).cloned(),
            Operation::Put => {
                values.insert(request.key, request.value).map(|old| old.get(..8).unwrap_or_default().to_vec())
            }
        };
        drop(values);
        Reply { id: request.id, count, value }.write(&mut writer)?;
        // More requests that have arrived already are answered together.
        if reader.buffer().is_empty() {
            writer.flush()?;
        }
    }
    Ok(())
}
