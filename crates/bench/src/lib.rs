//! What Ferry costs, measured beside the machine's own limits.
//!
//! A number alone says more about the machine than about Ferry, so every bench measures its limit in the same run,
//! alternating with what is measured: on a noisy machine the ratio stands still where the times do not. Each bench is a
//! program in `bin/`, run by `cargo xtask bench NAME`.

pub mod limit;
pub mod live;
pub mod machine;
pub mod report;
pub mod stalls;
pub mod subject;
