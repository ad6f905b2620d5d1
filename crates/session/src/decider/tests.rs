//! The embedded registry among three hosts of which some are away or lie.

use super::*;
use crate::journal::Journal;
use ferry_model::ids::Hash;
use std::collections::BTreeMap;
use std::sync::{Mutex, Weak};

const ID: WorkloadId = WorkloadId([7; 16]);

struct Host {
    journal: Option<Shared>,
}

impl Journals for Host {
    fn find(&self, id: WorkloadId) -> Option<Shared> {
        self.journal.clone().filter(|_| id == ID)
    }
}

#[derive(Default)]
struct Net {
    hosts: Mutex<BTreeMap<HostName, Embedded>>,
    away: Mutex<Vec<HostName>>,
    claims: Mutex<BTreeMap<HostName, Record>>,
}

struct Seen {
    net: Weak<Net>,
    from: HostName,
}

impl Seen {
    fn other(&self, host: &HostName) -> Result<Embedded, Unreachable> {
        let net = self.net.upgrade().ok_or(Unreachable)?;
        if net.away.lock().unwrap().contains(host) {
            return Err(Unreachable);
        }
        let hosts = net.hosts.lock().unwrap();
        hosts.get(host).cloned().ok_or(Unreachable)
    }
}

impl Peers for Seen {
    fn hosts(&self) -> Vec<HostName> {
        let net = self.net.upgrade().unwrap();
        net.hosts.lock().unwrap().keys().filter(|host| **host != self.from).cloned().collect()
    }

    fn record(&self, host: &HostName, id: WorkloadId) -> Result<Option<Record>, Unreachable> {
        let other = self.other(host)?;
        let claim = self.net.upgrade().and_then(|net| net.claims.lock().unwrap().get(host).cloned());
        Ok(claim.or_else(|| other.local(id)))
    }

    fn cas(&self, host: &HostName, cas: &Cas) -> Result<Answer, Unreachable> {
        Ok(self.other(host)?.decide(cas, &By::Host(self.from.clone())))
    }
}

fn name(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

struct Fixture {
    _dir: tempfile::TempDir,
    net: Arc<Net>,
    journals: BTreeMap<&'static str, Shared>,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let net = Arc::new(Net::default());
    let mut journals = BTreeMap::new();
    for host in ["a", "b", "c", "d"] {
        // "d" never had anything to do with the workload.
        let journal = (host != "d").then(|| Journal::open_shared(&dir.path().join(host)).unwrap());
        if let Some(journal) = &journal {
            journals.insert(host, journal.clone());
        }
        let seen = Seen { net: Arc::downgrade(&net), from: name(host) };
        let embedded = Embedded::new(name(host), Arc::new(Host { journal }), Arc::new(seen));
        net.hosts.lock().unwrap().insert(name(host), embedded);
    }
    Fixture { _dir: dir, net, journals }
}

impl Fixture {
    fn at(&self, host: &str) -> Embedded {
        self.net.hosts.lock().unwrap()[&name(host)].clone()
    }

    fn write(&self, host: &str, record: &Record) {
        self.journals[host].lock().unwrap().append(&Entry::Record(record.clone())).unwrap();
    }
}

fn record(epoch: u64, owner: &str) -> Record {
    let (standing, boot_id) = (Standing::Running, BootId([1; 16]));
    let (mv, hash) = (Some(MoveId([epoch as u8; 16])), Some(Hash([3; 32])));
    Record { id: ID, epoch: Epoch(epoch), owner: name(owner), boot_id, standing, mv, hash }
}

fn give(from: &str, epoch: u64, to: &str) -> Cas {
    Cas { owner: name(from), epoch: Epoch(epoch), new: record(epoch + 1, to) }
}

#[test]
fn the_owner_decides_once() {
    let f = fixture();
    f.write("a", &record(1, "a"));
    assert_eq!(f.at("a").cas(&give("a", 1, "b")), Answer::Won(record(2, "b")));
    assert_eq!(f.at("a").cas(&give("a", 1, "c")), Answer::Is(record(2, "b")));
    assert_eq!(f.at("a").cas(&give("a", 1, "b")), Answer::Is(record(2, "b")), "asked twice, done once");
}

#[test]
fn only_the_owner_gives_away_and_only_to_a_receipt() {
    let f = fixture();
    f.write("a", &record(1, "a"));
    assert_eq!(f.at("c").cas(&give("a", 1, "c")), Answer::Refused(Refusal::NotOwner));
    let mut unproved = give("a", 1, "b");
    unproved.new.hash = None;
    assert_eq!(f.at("a").cas(&unproved), Answer::Refused(Refusal::NoReceipt));
    let mut skipping = give("a", 1, "b");
    skipping.new.epoch = Epoch(9);
    assert_eq!(f.at("a").cas(&skipping), Answer::Refused(Refusal::WrongEpoch));
    assert_eq!(f.at("a").local(ID), Some(record(1, "a")));
}

#[test]
fn a_suspended_one_is_taken_back_once_by_who_has_the_image() {
    let f = fixture();
    let image = Hash([9; 32]);
    let suspended = Record { standing: Standing::Suspended(image), hash: Some(image), ..record(2, "a") };
    f.write("a", &suspended);
    assert_eq!(f.at("b").cas(&give("a", 2, "b")), Answer::Refused(Refusal::WrongImage));
    let take = |to: &str| {
        let mut cas = give("a", 2, to);
        cas.new.hash = Some(image);
        cas
    };
    assert_eq!(f.at("c").cas(&take("b")), Answer::Refused(Refusal::NotOwner), "not for somebody else");
    assert!(matches!(f.at("b").cas(&take("b")), Answer::Won(_)));
    assert!(matches!(f.at("c").cas(&take("c")), Answer::Is(record) if record.owner == name("b")));
}

#[test]
fn it_is_found_from_anywhere_by_following_owners() {
    let f = fixture();
    f.write("a", &record(1, "a"));
    f.write("a", &record(2, "b"));
    f.write("b", &record(2, "b"));
    f.write("b", &record(3, "c"));
    f.write("c", &record(3, "c"));
    for host in ["a", "b", "c", "d"] {
        let found = f.at(host).locate(ID).unwrap();
        assert_eq!((found.record, found.confirmed), (record(3, "c"), true), "from {host}");
    }
    f.net.away.lock().unwrap().push(name("b"));
    let found = f.at("a").locate(ID).unwrap();
    assert_eq!((found.record, found.confirmed), (record(3, "c"), true), "past an owner that is away");
    f.net.away.lock().unwrap().push(name("c"));
    let found = f.at("a").locate(ID).unwrap();
    assert_eq!((found.record, found.confirmed), (record(2, "b"), false));
}

#[test]
fn no_answer_is_unknown() {
    let f = fixture();
    f.write("a", &record(1, "a"));
    f.net.away.lock().unwrap().push(name("a"));
    assert_eq!(f.at("b").read_from(&name("a"), ID), Answer::Unknown);
    let suspended = give("a", 1, "b");
    assert_eq!(f.at("b").cas(&suspended), Answer::Unknown);
    assert_eq!(f.at("d").read(ID), Answer::Unknown);
}

#[test]
fn a_stolen_host_gives_away_only_what_it_owns() {
    let f = fixture();
    f.write("a", &record(1, "a"));
    // "c" claims that "b" owns it under a high epoch. Whoever decides asks the source, and follows from there.
    f.net.claims.lock().unwrap().insert(name("c"), record(50, "b"));
    assert_eq!(f.at("b").read_from(&name("a"), ID), Answer::Is(record(1, "a")));
    assert_eq!(f.at("a").read(ID), Answer::Is(record(1, "a")));
}
