//! What a user asks of a move.

use crate::shim::{Network, Spec, With};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::{HostName, MoveId, WorkloadId};
use ferry_model::plan::Plan;
use ferry_model::planning::Method;
use ferry_model::resource::Binding;
use ferry_model::strategy::options::LiveOptions;

/// One move, or one clone, of one workload.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its identity, made by whoever asks.
    pub id: MoveId,
    /// What moves.
    pub workload: WorkloadId,
    /// To where.
    pub to: HostName,
    /// How state travels.
    pub method: Method,
    /// The original goes on, and this is the new one.
    pub clone: Option<CloneSpec>,
    /// Exactly this plan, or refuse.
    pub plan: Option<Plan>,
    /// Bindings that the user overrides.
    pub bindings: Vec<(String, Binding)>,
    /// Paths that it needs beside those that were named before.
    pub with: Vec<With>,
    /// Connections that cannot move are ended.
    pub end_connections: bool,
    /// What is asked of a method that copies while the workload runs; the number of page streams is any method's.
    pub live: LiveOptions,
}

impl Request {
    /// Refuses what no plan could make possible, before anybody is connected to.
    ///
    /// # Errors
    /// Options that the method cannot follow, and a clone by a method that needs the original's end.
    pub(super) fn check(&self) -> Result<()> {
        self.live.check(self.method)?;
        if self.clone.is_some() && matches!(self.method, Method::PostCopy | Method::Hybrid) {
            let text = format!(
                "A clone cannot be made by {}: its original goes on, and keeps no page as it was",
                self.method
            );
            return Err(Error::new(Kind::Refused, text).hint("--method pre-copy"));
        }
        Ok(())
    }

    /// Whether pages may be left behind, as far as the one who asks is concerned.
    pub(super) fn may_follow(&self) -> bool {
        let asked = match self.method {
            Method::PostCopy | Method::Hybrid => true,
            Method::PreCopy | Method::Auto => self.live.on_no_convergence.may_switch(),
            Method::Cold | Method::Warm | Method::StopAndCopy => false,
        };
        // The original of a clone goes on, and keeps no page as it was.
        asked && self.clone.is_none()
    }
}

/// What is the clone's own.
#[derive(Clone, Debug)]
pub struct CloneSpec {
    /// Its identity.
    pub id: WorkloadId,
    /// Its name, also its host name.
    pub name: String,
    /// Its address with prefix length; needed where the original has one.
    pub address: Option<String>,
}

impl CloneSpec {
    /// Makes the clone's description of the original's: identity, name, host name, MAC and address are its own before it first runs.
    pub(super) fn apply(&self, spec: &mut Spec) -> Result<()> {
        spec.id = self.id;
        spec.name.clone_from(&self.name);
        spec.hostname = Some(self.name.clone());
        match (&mut spec.network, &self.address) {
            (Some(network), Some(address)) => {
                let mac = own_mac(self.id);
                let addresses = vec![address.clone()];
                *network = Network { addresses, mac, ..network.clone() };
                Ok(())
            }
            (Some(_), None) => {
                Err(Error::new(Kind::Refused, "The clone of a workload with an address needs one of its own")
                    .hint("name it with --net ADDR/LEN"))
            }
            (None, Some(_)) => Err(Error::new(
                Kind::Refused,
                "The original has no network of its own, so its clone gets none",
            )),
            (None, None) => Ok(()),
        }
    }
}

/// A MAC address for a workload: locally administered, the same for the same identity on any host.
#[must_use]
pub fn own_mac(id: WorkloadId) -> [u8; 6] {
    let hash = ferry_model::ids::Hash::of(&id.0).0;
    [(hash[0] & 0xfc) | 0x02, hash[1], hash[2], hash[3], hash[4], hash[5]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_model::strategy::remedy::Wish;

    fn request(method: Method) -> Request {
        Request {
            id: MoveId([1; 16]),
            workload: WorkloadId([2; 16]),
            to: "beta".parse().unwrap(),
            method,
            clone: None,
            plan: None,
            bindings: Vec::new(),
            with: Vec::new(),
            end_connections: false,
            live: LiveOptions::default(),
        }
    }

    #[test]
    fn only_a_workload_that_leaves_leaves_pages_behind() {
        let clone = CloneSpec { id: WorkloadId([3; 16]), name: "two".into(), address: None };
        for method in [Method::PostCopy, Method::Hybrid] {
            request(method).check().unwrap();
            assert!(request(method).may_follow());
            let error = Request { clone: Some(clone.clone()), ..request(method) }.check().unwrap_err();
            assert!(error.kind == Kind::Refused && error.message.contains(&method.to_string()), "{error}");
        }
        for method in [Method::PreCopy, Method::Auto] {
            assert!(request(method).may_follow());
            assert!(!Request { clone: Some(clone.clone()), ..request(method) }.may_follow());
            for on_no_convergence in [Wish::Stop, Wish::Throttle, Wish::GiveUp] {
                let live = LiveOptions { on_no_convergence, ..LiveOptions::default() };
                assert!(!Request { live, ..request(method) }.may_follow());
            }
        }
        assert!(!request(Method::StopAndCopy).may_follow());
        let live = LiveOptions { streams: 0, ..LiveOptions::default() };
        let error = Request { live, ..request(Method::StopAndCopy) }.check().unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
    }

    fn original() -> Spec {
        let network = Network {
            bridge: "b0".into(),
            addresses: vec!["10.0.0.2/24".into()],
            mac: own_mac(WorkloadId([1; 16])),
            gateways: vec![],
        };
        Spec { id: WorkloadId([1; 16]), name: "one".into(), network: Some(network), ..Spec::default() }
    }

    #[test]
    fn a_clone_has_an_identity_of_its_own_or_does_not_come_to_be() {
        let mut clone =
            CloneSpec { id: WorkloadId([2; 16]), name: "two".into(), address: Some("10.0.0.3/24".into()) };
        let (before, mut spec) = (original(), original());
        clone.apply(&mut spec).unwrap();
        let (old, new) = (before.network.unwrap(), spec.network.unwrap());
        assert_ne!((spec.id, &spec.name, old.mac), (before.id, &before.name, new.mac));
        assert_eq!((new.addresses, new.bridge), (vec!["10.0.0.3/24".to_owned()], old.bridge));
        assert_eq!(spec.hostname.as_deref(), Some("two"));
        clone.address = None;
        assert!(clone.apply(&mut original()).is_err());
    }

    #[test]
    fn mac_addresses_are_unicast_and_local() {
        for id in 0..50 {
            assert_eq!(own_mac(WorkloadId([id; 16]))[0] & 3, 2);
        }
    }
}
