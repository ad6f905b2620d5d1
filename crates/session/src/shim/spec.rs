//! What a workload was asked to be: the part of its record that moves with it and that a restarted shim reads again.

use ferry_model::ids::WorkloadId;
use ferry_model::resource::Binding;
use minicbor::{Decode, Encode};

/// What `ferry run` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Spec {
    /// Its identity.
    #[n(0)]
    pub id: WorkloadId,
    /// Its name on this host.
    #[n(1)]
    pub name: String,
    /// The program and its arguments.
    #[n(2)]
    pub command: Vec<String>,
    /// Environment, `NAME=VALUE`; the whole of it.
    #[n(3)]
    pub env: Vec<String>,
    /// Working directory.
    #[n(4)]
    pub cwd: String,
    /// `USER[:GROUP]`, names or numbers; none: root.
    #[n(5)]
    pub user: Option<String>,
    /// A terminal of this size; none: output goes to the log.
    #[n(6)]
    pub terminal: Option<Size>,
    /// A network namespace of its own.
    #[n(7)]
    pub network: Option<Network>,
    /// Paths of the host that it sees.
    #[n(8)]
    pub with: Vec<With>,
    /// Limit of memory, bytes.
    #[n(9)]
    pub memory_bytes_max: Option<u64>,
    /// Limit of processor time, thousandths of one processor.
    #[n(10)]
    pub cpu_milli_max: Option<u64>,
    /// Host name inside; none: the workload's name.
    #[n(11)]
    pub hostname: Option<String>,
}

/// A path of the host that a workload sees at the same place.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct With {
    /// Absolute path.
    #[n(0)]
    pub path: String,
    /// How the workload is bound to it.
    #[n(1)]
    pub binding: Binding,
}

/// The network identity: what moves with the workload, and the bridge that joins it to the host.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Network {
    /// Bridge of the host.
    #[n(0)]
    pub bridge: String,
    /// Address and prefix length, `10.1.0.7/24` or `fd00::7/64`; the first is the one that `--net` named.
    #[n(1)]
    pub addresses: Vec<String>,
    /// MAC address of the inner end.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub mac: [u8; 6],
    /// Default gateways.
    #[n(3)]
    pub gateways: Vec<String>,
}

/// Size of a terminal, characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Size {
    /// Rows.
    #[n(0)]
    pub rows: u16,
    /// Columns.
    #[n(1)]
    pub columns: u16,
}

/// What `ferry exec` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ExecSpec {
    /// The program and its arguments.
    #[n(0)]
    pub command: Vec<String>,
    /// Environment, `NAME=VALUE`.
    #[n(1)]
    pub env: Vec<String>,
    /// Working directory.
    #[n(2)]
    pub cwd: Option<String>,
    /// `USER[:GROUP]`.
    #[n(3)]
    pub user: Option<String>,
    /// A terminal of this size; none: pipes.
    #[n(4)]
    pub terminal: Option<Size>,
}
