//! The policy of a node: `policy.toml` in its state directory. Who may send it what, and who may fetch from it. Without the
//! file, every member of the fleet may. A file that cannot be understood lets nobody in: it was written to keep somebody out.

use crate::files;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use ferry_model::plan::Resource;
use serde::Deserialize;
use std::path::Path;

/// Name of the file in the state directory.
pub const FILE: &str = "policy.toml";

/// What is offered to this host.
#[derive(Clone, Copy, Debug)]
pub struct Offered<'a> {
    /// By whom, by its certificate.
    pub from: &'a HostName,
    /// Name of the workload.
    pub name: &'a str,
    /// Address that it brings.
    pub network: Option<&'a str>,
    /// The original goes on.
    pub clone: bool,
    /// What it holds.
    pub resources: &'a [Resource],
}

/// The policy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub struct Policy {
    /// Workloads that come.
    receive: Receive,
    /// Workloads that are fetched.
    pull: Pull,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Receive {
    /// Hosts that may send; `*`: every member.
    from: Vec<String>,
    /// Names of workloads that may come; a `*` at the end stands for any rest.
    names: Vec<String>,
    /// Whether remote clones may come.
    clones: bool,
    /// Whether a workload may bring an address of its own.
    networks: bool,
    /// Sorts of resources that may not come, as `ferry plan` names them.
    sorts_refused: Vec<String>,
    /// Most bytes that the resources of one workload may have.
    bytes_max: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Pull {
    /// Hosts that may fetch; `*`: every member.
    by: Vec<String>,
    /// Names of workloads that may be fetched; a `*` at the end stands for any rest.
    names: Vec<String>,
}

impl Default for Receive {
    fn default() -> Self {
        let all = vec!["*".to_owned()];
        Self {
            from: all.clone(),
            names: all,
            clones: true,
            networks: true,
            sorts_refused: Vec::new(),
            bytes_max: None,
        }
    }
}

impl Default for Pull {
    fn default() -> Self {
        Self { by: vec!["*".to_owned()], names: vec!["*".to_owned()] }
    }
}

impl Policy {
    /// Reads the policy of a state directory. It is read at each decision, so that a change counts at once.
    pub fn load(state: &Path) -> Result<Self> {
        let path = state.join(FILE);
        let Some(bytes) = files::read_if_there(&path)? else { return Ok(Self::default()) };
        let text = String::from_utf8_lossy(&bytes);
        toml::from_str(&text).map_err(|cause| {
            Error::new(Kind::Refused, cause.message())
                .context(format!("The policy {} cannot be understood, so it lets nobody in", path.display()))
        })
    }

    /// What speaks against an offer; nothing: it is welcome.
    #[must_use]
    pub fn refusals(&self, offer: &Offered<'_>) -> Vec<String> {
        let rules = &self.receive;
        let mut against = Vec::new();
        if !matches(&rules.from, offer.from.as_str()) {
            against.push(format!("{} may not send workloads here ([receive] from)", offer.from));
        }
        if !matches(&rules.names, offer.name) {
            against.push(format!("a workload named {} may not come here ([receive] names)", offer.name));
        }
        if offer.clone && !rules.clones {
            against.push("no remote clones may come here ([receive] clones)".to_owned());
        }
        if let (Some(address), false) = (offer.network, rules.networks) {
            against.push(format!(
                "a workload may not bring an address, and it brings {address} ([receive] networks)"
            ));
        }
        let refused = |resource: &&Resource| rules.sorts_refused.contains(&resource.sort);
        if let Some(resource) = offer.resources.iter().find(refused) {
            let name = &resource.name;
            against.push(format!(
                "no {} may come here, and it has {name} ([receive] sorts_refused)",
                resource.sort
            ));
        }
        let bytes = offer.resources.iter().fold(0_u64, |sum, resource| sum.saturating_add(resource.bytes));
        if let Some(most) = rules.bytes_max.filter(|most| bytes > *most) {
            against.push(format!(
                "its resources have {bytes} bytes, and {most} is the most ([receive] bytes_max)"
            ));
        }
        against
    }

    /// What speaks against `host` fetching the workload named `name`; nothing: it may.
    #[must_use]
    pub fn pull_refusal(&self, host: &HostName, name: &str) -> Option<String> {
        if !matches(&self.pull.by, host.as_str()) {
            return Some(format!("{host} may not fetch workloads from here ([pull] by)"));
        }
        let open = matches(&self.pull.names, name);
        (!open).then(|| format!("a workload named {name} may not be fetched from here ([pull] names)"))
    }
}

fn matches(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_model::resource::{Attachment, Binding};

    fn parse(text: &str) -> Policy {
        toml::from_str(text).unwrap()
    }

    fn file(bytes: u64) -> Resource {
        Resource {
            sort: "file".to_owned(),
            name: "/srv/data".to_owned(),
            holder: None,
            binding: Binding::Identifier,
            attachment: Attachment::Unattached,
            bytes,
            hash: None,
            unsupported: None,
            shared: None,
        }
    }

    fn refusals(policy: &str, clone: bool) -> Vec<String> {
        let (from, resources) = (HostName::new("beta").unwrap(), [file(10)]);
        let offer = Offered {
            from: &from,
            name: "web-1",
            network: Some("10.7.0.5/24"),
            clone,
            resources: &resources,
        };
        parse(policy).refusals(&offer)
    }

    #[test]
    fn members_may_by_default() {
        assert_eq!(refusals("", true), Vec::<String>::new());
        assert_eq!(parse("").pull_refusal(&HostName::new("beta").unwrap(), "web"), None);
    }

    #[test]
    fn each_rule_keeps_out_and_says_which_it_was() {
        let cases = [
            ("[receive]\nfrom = ['alpha']", "from"),
            ("[receive]\nfrom = []", "from"),
            ("[receive]\nnames = ['db*']", "names"),
            ("[receive]\nclones = false", "clones"),
            ("[receive]\nnetworks = false", "networks"),
            ("[receive]\nsorts_refused = ['file']", "sorts_refused"),
            ("[receive]\nbytes_max = 9", "bytes_max"),
        ];
        for (policy, rule) in cases {
            let said = refusals(policy, true);
            assert!(said.len() == 1 && said[0].contains(&format!("[receive] {rule}")), "{policy}: {said:?}");
        }
        assert!(refusals("[receive]\nnames = ['web-*']\nbytes_max = 10\nclones = false", false).is_empty());
    }

    #[test]
    fn pulling_is_by_host_and_name() {
        let policy = parse("[pull]\nby = ['gamma']\nnames = ['job-*']");
        let (beta, gamma) = (HostName::new("beta").unwrap(), HostName::new("gamma").unwrap());
        assert!(policy.pull_refusal(&beta, "job-1").is_some());
        assert!(policy.pull_refusal(&gamma, "web").is_some());
        assert_eq!(policy.pull_refusal(&gamma, "job-1"), None);
    }

    #[test]
    fn a_policy_that_cannot_be_understood_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["[receive]\nform = ['alpha']", "[receive", "[receive]\nfrom = 'alpha'"] {
            std::fs::write(dir.path().join(FILE), bad).unwrap();
            assert_eq!(Policy::load(dir.path()).unwrap_err().kind, Kind::Refused, "{bad}");
        }
    }
}
