//! The one shape in which every bench reports, for scripts and for people.

use crate::machine::Machine;
use serde::{Deserialize, Serialize};

/// What a bench has found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Name of the bench.
    pub bench: String,
    /// Where.
    pub machine: Machine,
    /// What.
    pub rows: Vec<Row>,
    /// What was to be measured and could not be, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
}

/// One measured quantity.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Unit of all values.
    pub unit: String,
    /// Median of the samples.
    pub value: f64,
    /// Median of the machine's limit, measured in the same run.
    pub limit: Option<f64>,
    /// What is to be reached, computed from the limit.
    pub bound: Option<f64>,
    /// Whether it is.
    pub reached: Option<bool>,
    /// The best peer's value on this sort of machine, from its own documentation or measured elsewhere.
    pub peer: Option<f64>,
    /// Every sample.
    pub samples: Vec<f64>,
}

impl Row {
    /// A row from samples.
    #[must_use]
    pub fn new(name: impl Into<String>, unit: impl Into<String>, samples: Vec<f64>) -> Self {
        let value = median(&samples);
        let (name, unit) = (name.into(), unit.into());
        Self { name, unit, value, limit: None, bound: None, reached: None, peer: None, samples }
    }

    /// Adds what is to be reached.
    #[must_use]
    pub fn at_most(mut self, bound: f64) -> Self {
        self.bound = Some(bound);
        self.reached = Some(self.value <= bound);
        self
    }

    /// Adds the limit: the bound is `factor` times it and `more`.
    #[must_use]
    pub fn within(mut self, limits: &[f64], factor: f64, more: f64) -> Self {
        let limit = median(limits);
        self.limit = Some(limit);
        self.at_most(limit * factor + more)
    }

    /// Adds the limit of something of which more is better: the bound is this share of it.
    #[must_use]
    pub fn at_least_share(mut self, limits: &[f64], share: f64) -> Self {
        let limit = median(limits);
        self.limit = Some(limit);
        self.bound = Some(limit * share);
        self.reached = Some(self.value >= limit * share);
        self
    }

    /// Adds a peer's value.
    #[must_use]
    pub fn peer(mut self, peer: Option<f64>) -> Self {
        self.peer = peer;
        self
    }
}

/// The middle one of `samples`; 0 if there are none.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

impl Report {
    /// A table in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::from("| what | unit | median | limit | to reach | reached | peer |\n");
        text.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        for row in &self.rows {
            let reached = match row.reached {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "-",
            };
            text.push_str(&format!(
                "| {} | {} | {:.1} | {} | {} | {reached} | {} |\n",
                row.name,
                row.unit,
                row.value,
                number(row.limit),
                number(row.bound),
                number(row.peer)
            ));
        }
        for why in &self.skipped {
            text.push_str(&format!("\nNo row for {why}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_compares_its_median_with_its_bound() {
        let row = Row::new("x", "ms", vec![9.0, 1.0, 2.0]).within(&[1.0, 3.0], 1.5, 0.0);
        assert_eq!((row.value, row.limit, row.bound, row.reached), (2.0, Some(2.0), Some(3.0), Some(true)));
        let row = Row::new("x", "ms", vec![3.5]).within(&[2.0], 1.5, 0.0);
        assert_eq!(row.reached, Some(false));
        let row = Row::new("x", "MiB/s", vec![79.0]).at_least_share(&[100.0], 0.8);
        assert_eq!((row.bound, row.reached), (Some(80.0), Some(false)));
        assert_eq!(median(&[]), 0.0);
    }
}
