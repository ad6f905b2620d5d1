//! One system call to be run in another task, as data: what a batch is made of by those who do not build batches.

/// An argument of a [`RemoteCall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A number, a descriptor or an address that is valid in the task.
    Value(u64),
    /// Bytes that are put into the task's batch area; the call gets their address. What the call wrote there is lost.
    Bytes(Vec<u8>),
}

/// One system call with what to say if it fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCall {
    /// Number of the system call.
    pub nr: i64,
    /// Its arguments.
    pub args: [Argument; 6],
    /// What it is for, in words: the error says "Cannot {what}".
    pub what: String,
    /// Errors (positive errno) that are accepted.
    pub accept: Vec<i32>,
}

impl RemoteCall {
    /// A call of `nr` that is to `what`, with up to six arguments.
    pub fn new(nr: i64, what: impl Into<String>, args: &[Argument]) -> Self {
        let mut all: [Argument; 6] = std::array::from_fn(|_| Argument::Value(0));
        for (place, argument) in all.iter_mut().zip(args) {
            place.clone_from(argument);
        }
        Self { nr, args: all, what: what.into(), accept: Vec::new() }
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self::Value(value)
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self::Value(value as i64 as u64)
    }
}

impl From<Vec<u8>> for Argument {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}
