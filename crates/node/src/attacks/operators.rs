//! Attacks on the API that is served to operators: who may not ask, does not get past the handshake.

use super::{TestNode, attacker, host, signed};
use crate::api::who::Who;
use crate::remote::Remote;
use crate::trust::certificate::{self, Usage};
use crate::trust::members::{Member, Operator};
use crate::trust::{now_unix, operator, tls};
use ferry_model::api::OperatorRequest;
use ferry_model::error::{Kind, Result};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What the API of `node` answers to who shows this; nothing if it never gets to speak HTTP.
fn answer(node: &TestNode, shown: Option<Shown>) -> Option<String> {
    let mut config = (*attacker(shown)).clone();
    config.alpn_protocols = vec![tls::HTTP.to_vec()];
    let tcp = TcpStream::connect(&node.api).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let name = certificate::server_name(&host("alpha")).unwrap();
    let connection = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, tcp);
    let asked = stream.write_all(b"GET /v1/node HTTP/1.1\r\nHost: ferry\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let _ = asked.and_then(|()| stream.read_to_string(&mut answer));
    Some(answer).filter(|answer| !answer.is_empty())
}

/// An operator as `ferry node operator` makes it, with its files in `dir`.
fn made(node: &TestNode, name: &str, dir: &Path) {
    let (key, request) = operator::request().unwrap();
    let asked = OperatorRequest { name: host(name), request, valid_seconds: 3600 };
    let signed = node.node.operator(&Who::Local, &asked).unwrap();
    operator::save(dir, &key, &signed.certificate, &signed.authority).unwrap();
}

/// Asks as the operator in `dir`, by the client that the CLI uses.
fn ask(url: &str, dir: &Path) -> Result<String> {
    let remote = Remote::new(url, dir)?;
    let mut stream = remote.open()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let asked = stream.write_all(b"GET /v1/node HTTP/1.1\r\nHost: ferry\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let _ = asked.and_then(|()| stream.read_to_string(&mut answer));
    Ok(answer)
}

/// Enters a certificate into the list of operators.
fn enter(node: &TestNode, name: &str, serial: Vec<u8>, expires_unix: u64) {
    let one = Operator { name: host(name), serial, expires_unix, removed: false };
    node.node
        .peers()
        .roster()
        .change(|list| {
            list.operators.push(one);
            Ok(true)
        })
        .unwrap();
}

#[test]
fn an_operator_is_answered_by_every_node_and_the_tool_of_the_attacks_works() {
    let alpha = TestNode::first("alpha");
    let beta = TestNode::joined(&alpha, "beta");
    let dir = tempfile::tempdir().unwrap();
    made(&alpha, "alice", dir.path());
    // The list came to beta by itself: who was made an operator on one node is one on all.
    for (node, name) in [(&alpha, "alpha"), (&beta, "beta")] {
        let said = ask(&format!("https://{name}@{}", node.api), dir.path()).unwrap();
        assert!(said.contains("200 OK") && said.contains(&format!("\"name\":\"{name}\"")), "{said}");
        assert!(ask(&format!("https://{}", node.api), dir.path()).unwrap().contains("200 OK"));
    }
    let shown = operator::load(dir.path()).unwrap();
    assert!(answer(&alpha, Some((shown.chain, shown.key))).unwrap().contains("200 OK"));
}

#[test]
fn who_has_no_operators_certificate_does_not_get_to_ask() {
    let (alpha, foreign) = (TestNode::first("alpha"), TestNode::first("foreign"));
    assert_eq!(answer(&alpha, None), None, "a stranger");
    alpha.audited("peer sent no certificates");

    // A node of the fleet, in the list of members: it has peers, not an operator's rights.
    let (chain, key, serial) = signed(alpha.dir.path(), "beta", Usage::Node);
    let listed = Member { name: host("beta"), address: None, serial: serial.clone(), removed: false };
    alpha
        .node
        .peers()
        .roster()
        .change(|list| {
            list.list.push(listed);
            Ok(true)
        })
        .unwrap();
    enter(&alpha, "beta", serial, now_unix() + 60);
    assert_eq!(answer(&alpha, Some((chain, key))), None, "a node");
    alpha.audited("InvalidPurpose");

    // An operator of another fleet, under a name and number that this one knows.
    let (chain, key, serial) = signed(foreign.dir.path(), "eve", Usage::Operator);
    enter(&alpha, "eve", serial, now_unix() + 60);
    assert_eq!(answer(&alpha, Some((chain, key))), None, "another fleet's operator");
    alpha.audited("invalid peer certificate");

    // Signed, and in no list.
    let (chain, key, _) = signed(alpha.dir.path(), "mallory", Usage::Operator);
    assert_eq!(answer(&alpha, Some((chain, key))), None, "one that nobody knows");
    alpha.audited("Revoked");
}

#[test]
fn an_expired_certificate_of_an_operator_opens_nothing() {
    let alpha = TestNode::first("alpha");
    let authority = crate::trust::authority::Authority::load(alpha.dir.path()).unwrap().unwrap();
    for (seconds, expected) in [(-5_i64, false), (600, true)] {
        let key = certificate::new_key().unwrap();
        let until = now_unix().saturating_add_signed(seconds);
        let own = authority.sign_until(&key, &host("late"), Usage::Operator, until).unwrap();
        enter(&alpha, "late", certificate::read(&own).unwrap().serial, now_unix() + 600);
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        assert_eq!(answer(&alpha, Some((vec![own], key))).is_some(), expected, "{seconds}");
    }
    alpha.audited("expired");
}

#[test]
fn an_operator_that_is_put_out_loses_open_connections_and_gets_no_new_ones() {
    let alpha = TestNode::first("alpha");
    let beta = TestNode::joined(&alpha, "beta");
    let dir = tempfile::tempdir().unwrap();
    made(&alpha, "alice", dir.path());
    let url = format!("https://beta@{}", beta.api);
    let remote = Remote::new(&url, dir.path()).unwrap();
    let mut open = remote.open().unwrap();
    open.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    open.write_all(b"GET /v1/node HTTP/1.1\r\nHost: ferry\r\n\r\n").unwrap();
    let mut piece = [0; 4096];
    assert!(open.read(&mut piece).unwrap() > 0, "it is answered as long as it is one");
    // Said at alpha; beta is told at once.
    alpha.node.put_out(&Who::Local, &host("alice")).unwrap();
    while open.read(&mut piece).unwrap_or(0) > 0 {}
    let refused = ask(&url, dir.path());
    assert!(!refused.unwrap_or_default().contains("200 OK"));
    beta.audited("Revoked");
    // Its name can be given anew, its old certificate stays worthless.
    let again = tempfile::tempdir().unwrap();
    made(&alpha, "alice", again.path());
    assert!(ask(&url, again.path()).unwrap().contains("200 OK"));
    assert!(!ask(&url, dir.path()).unwrap_or_default().contains("200 OK"));
}

#[test]
fn an_operator_tells_nothing_to_who_is_not_the_node_it_named() {
    let alpha = TestNode::first("alpha");
    let beta = TestNode::joined(&alpha, "beta");
    let foreign = TestNode::first("alpha");
    let dir = tempfile::tempdir().unwrap();
    made(&alpha, "alice", dir.path());
    // Another node of the fleet, and a node of another fleet under the right name.
    for api in [&beta.api, &foreign.api] {
        let error = ask(&format!("https://alpha@{api}"), dir.path()).unwrap_err();
        assert_eq!(error.kind, Kind::Refused, "{error:?}");
    }
    assert_eq!(ask(&format!("https://{}", foreign.api), dir.path()).unwrap_err().kind, Kind::Refused);
}

#[test]
fn one_name_is_a_host_or_an_operator() {
    let alpha = TestNode::first("alpha");
    let beta = TestNode::joined(&alpha, "beta");
    let dir = tempfile::tempdir().unwrap();
    made(&alpha, "alice", dir.path());
    for name in ["beta", "alice"] {
        let (_, request) = operator::request().unwrap();
        let asked = OperatorRequest { name: host(name), request, valid_seconds: 60 };
        assert_eq!(alpha.node.operator(&Who::Local, &asked).unwrap_err().kind, Kind::Refused, "{name}");
        let (_, request) = operator::request().unwrap();
        let asked = OperatorRequest { name: host("bob"), request, valid_seconds: 60 };
        assert_eq!(
            beta.node.operator(&Who::Local, &asked).unwrap_err().kind,
            Kind::Refused,
            "not the authority"
        );
    }
    let token = ferry_model::api::TokenRequest { name: host("alice"), valid_seconds: 60 };
    assert_eq!(alpha.node.token(&Who::Local, &token).err().unwrap().kind, Kind::Refused);
    let bad = OperatorRequest { name: host("bob"), request: "no request".to_owned(), valid_seconds: 60 };
    assert_eq!(alpha.node.operator(&Who::Local, &bad).unwrap_err().kind, Kind::Usage);
}
