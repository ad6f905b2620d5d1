//! The daemon of a host: the local API, the peers, and the trust between them.

mod files;
mod frame;
pub mod trust;
