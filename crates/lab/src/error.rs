//! What can go wrong in a lab, each with the step at which it did.

/// Why a lab, a host or a command in it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed at a step.
    #[error("{step}: {source}")]
    Step {
        /// What was being done.
        step: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Netlink answered with an error.
    #[error("Network set-up, {step}: {source}")]
    Net {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A helper process said no, in words.
    #[error("{0}")]
    Helper(String),
    /// A helper process is gone.
    #[error("The lab's helper process for {0} has ended")]
    Gone(String),
    /// A message between owner and helper made no sense.
    #[error("A message of the lab could not be read: {0}")]
    Message(String),
    /// A command inside of a host took longer than it may.
    #[error("`{command}` on {host} did not end within {seconds} s; it said: {said}")]
    TimedOut {
        /// The command line.
        command: String,
        /// Where.
        host: String,
        /// How long it had.
        seconds: u64,
        /// What it had printed until then.
        said: String,
    },
    /// A command inside of a host ended with a failure.
    #[error("`{command}` on {host} ended with {status}: {said}")]
    Failed {
        /// The command line.
        command: String,
        /// Where.
        host: String,
        /// Exit code or signal, in words.
        status: String,
        /// What it printed on both streams.
        said: String,
    },
    /// Not root.
    #[error("A lab needs root: it makes network, mount and pid namespaces")]
    NotRoot,
    /// No mount of cgroup version 2.
    #[error("No cgroup2 file system is mounted (neither at /sys/fs/cgroup nor at /sys/fs/cgroup/unified)")]
    NoCgroup2,
    /// The helper was called with words it does not know.
    #[error("This is a helper of the lab and not meant to be called by hand")]
    Usage,
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the step at which a system call failed.
pub(crate) trait At<T> {
    /// Adds what was being done.
    fn at(self, step: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, step: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error::Step { step: step.into(), source: error.into() })
    }
}
