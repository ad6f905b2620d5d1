//! How memory is moved, decided as pure functions over what was measured: one file for each rule.
//!
//! Predictions ([`stop_and_copy`], [`pre_copy`], [`post_copy`], [`hybrid`]) share one idea of how a workload dirties its memory
//! ([`measured`]), and of what earlier moves have shown ([`before`]). [`auto`] compares them and names its reason. While a pre-copy runs, [`convergence`] says after each round
//! whether another is worth it, and [`remedy`] what is done when rounds do not help. [`options`] is what a user may ask for.

pub mod auto;
pub mod before;
pub mod convergence;
pub mod estimate;
pub mod hybrid;
pub mod measured;
pub mod options;
pub mod post_copy;
pub mod pre_copy;
pub mod prediction;
pub mod remedy;
pub mod stop_and_copy;
