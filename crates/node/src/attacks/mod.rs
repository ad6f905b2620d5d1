//! Each attack on the trust between nodes, and on what operators may do, tried on real nodes over loopback.

mod operators;

use crate::api::who::Who;
use crate::audit;
use crate::node::{Addresses, Node};
use crate::peers::wire::{Reply, Request};
use crate::peers::{self, Peers};
use crate::trust::authority::Authority;
use crate::trust::certificate::{self, Usage};
use crate::trust::identity::Identity;
use crate::trust::members::{Member, Members};
use crate::trust::roster::Roster;
use crate::trust::token::Token;
use crate::trust::{self, tls};
use crate::up::{Config, set_address};
use ferry_model::api::TokenRequest;
use ferry_model::error::Kind;
use ferry_model::ids::HostName;
use ferry_transfer::wire::greeting::{self, Purpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A node with a state directory of its own that goes with it.
struct TestNode {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    node: Arc<Node>,
    address: String,
    /// Where its API is for operators.
    api: String,
}

impl TestNode {
    fn first(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        trust::init(dir.path(), &host(name)).unwrap();
        Self::up(dir)
    }

    /// Joins the fleet of `authority` and comes up; both know of each other when it returns.
    fn joined(authority: &Self, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        trust::join(dir.path(), &authority.token(name), None).unwrap();
        let joined = Self::up(dir);
        let (to, here) = (host(name), joined.address.clone());
        authority.node.peers().roster().change(|list| Ok(set_address(list, &to, Some(&here)))).unwrap();
        let newest = (*authority.node.peers().roster().now()).clone();
        joined.node.peers().roster().adopt(newest).unwrap();
        joined
    }

    fn up(dir: tempfile::TempDir) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let identity = Identity::require(dir.path()).unwrap();
        let roster = Roster::new(dir.path(), Members::load(dir.path()).unwrap().unwrap());
        let (peers, listener, operators) = runtime.block_on(async {
            let bind = || tokio::net::TcpListener::bind("127.0.0.1:0");
            (Peers::new(&identity, &roster).unwrap(), bind().await.unwrap(), bind().await.unwrap())
        });
        let api = operators.local_addr().unwrap().to_string();
        let address = listener.local_addr().unwrap().to_string();
        if identity.is_authority() {
            let name = identity.name().clone();
            roster.change(|list| Ok(set_address(list, &name, Some(&address)))).unwrap();
        }
        let config = Config {
            state: dir.path().to_owned(),
            run: dir.path().join("run"),
            listen: Some(address.clone()),
            api_listen: Some(api.clone()),
            advertise: None,
            bridge: "ferry0".to_owned(),
            visits_bytes_max: 0,
            ferry: "/nonexistent".into(),
        };
        let node = Node::new(
            config,
            identity,
            peers.clone(),
            Addresses { peers: Some(address.clone()), api: Some(api.clone()) },
        )
        .unwrap();
        runtime.spawn(peers::listen(listener, peers, node.clone()));
        {
            let _inside = runtime.enter();
            let operators = crate::api::remote::OperatorListener::new(operators, node.clone()).unwrap();
            runtime.spawn(crate::api::serve_operators(operators, node.clone()));
        }
        Self { dir, runtime, node, address, api }
    }

    fn token(&self, name: &str) -> String {
        self.node.token(&Who::Local, &TokenRequest { name: host(name), valid_seconds: 60 }).unwrap().token
    }

    fn ping(&self, to: &str) -> Result<Reply, ferry_model::error::Error> {
        self.node.peers().ask_within(&host(to), &Request::Ping, Duration::from_secs(2))
    }

    /// What the audit log says, once `wanted` stands in it.
    fn audited(&self, wanted: &str) -> String {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let log = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap_or_default();
            if log.contains(wanted) || Instant::now() > end {
                assert!(log.contains(wanted), "'{wanted}' is not in the audit log:\n{log}");
                assert!(audit::verify(self.dir.path()).is_ok());
                return log;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

/// A certificate that `state`'s authority signs, with its key.
fn signed(
    state: &Path,
    name: &str,
    usage: Usage,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Vec<u8>) {
    let authority = Authority::load(state).unwrap().unwrap();
    let key = certificate::new_key().unwrap();
    let own = authority.sign(&key, &host(name), usage).unwrap();
    let serial = certificate::read(&own).unwrap().serial;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    (vec![own, authority.certificate().clone()], key, serial)
}

/// An attacker's client that believes every server.
fn attacker(
    shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Arc<rustls::ClientConfig> {
    #[derive(Debug)]
    struct Gullible;
    impl rustls::client::danger::ServerCertVerifier for Gullible {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match shown {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![tls::PEER.to_vec()];
    Arc::new(config)
}

/// Whether the node at `address` greets an attacker back who calls itself `name`.
fn gets_in(address: &str, config: Arc<rustls::ClientConfig>, name: &str) -> bool {
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let connection =
        rustls::ClientConnection::new(config, certificate::server_name(&host(name)).unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, tcp);
    greeting::connect(&mut stream, &host(name), Purpose::Node).is_ok()
}

#[test]
fn members_reach_each_other_and_the_tool_of_the_attacks_works() {
    let (alpha, beta);
    alpha = TestNode::first("alpha");
    beta = TestNode::joined(&alpha, "beta");
    assert_eq!(alpha.ping("beta").unwrap(), Reply::Done);
    assert_eq!(beta.ping("alpha").unwrap(), Reply::Done);
    // With a member's own certificate the attacker's client gets in: what the tests below see is the refusal, not a mistake.
    let (chain, key, serial) = signed(alpha.dir.path(), "eve", Usage::Node);
    let eve = Member { name: host("eve"), address: None, serial, removed: false };
    alpha
        .node
        .peers()
        .roster()
        .change(|list| {
            list.list.push(eve);
            Ok(true)
        })
        .unwrap();
    assert!(gets_in(&alpha.address, attacker(Some((chain, key))), "eve"));
    drop((alpha.runtime, beta.runtime));
}

#[test]
fn a_stranger_without_a_certificate_is_turned_away() {
    let alpha = TestNode::first("alpha");
    assert!(!gets_in(&alpha.address, attacker(None), "beta"));
    alpha.audited("peer sent no certificates");
}

#[test]
fn a_certificate_of_another_authority_opens_nothing() {
    let (alpha, foreign) = (TestNode::first("alpha"), TestNode::first("beta"));
    let (chain, key, _) = signed(foreign.dir.path(), "beta", Usage::Node);
    assert!(!gets_in(&alpha.address, attacker(Some((chain, key))), "beta"));
    alpha.audited("invalid peer certificate");
    // And the other way: a member finds a foreign node under a known address.
    let (to, there) = (
        Member { name: host("beta"), address: None, serial: vec![1], removed: false },
        foreign.address.clone(),
    );
    alpha
        .node
        .peers()
        .roster()
        .change(|list| {
            list.list.push(to);
            Ok(true)
        })
        .unwrap();
    alpha.node.peers().roster().change(|list| Ok(set_address(list, &host("beta"), Some(&there)))).unwrap();
    assert!(
        alpha.ping("beta").unwrap_err().causes.iter().any(|cause| cause.contains("invalid peer certificate"))
    );
}

#[test]
fn a_signed_certificate_that_is_not_in_the_list_opens_nothing() {
    let alpha = TestNode::first("alpha");
    let (chain, key, _) = signed(alpha.dir.path(), "beta", Usage::Node);
    assert!(!gets_in(&alpha.address, attacker(Some((chain, key))), "beta"));
    alpha.audited("Revoked");
}

#[test]
fn an_operators_certificate_is_not_a_nodes() {
    let alpha = TestNode::first("alpha");
    let (chain, key, serial) = signed(alpha.dir.path(), "beta", Usage::Operator);
    let listed = Member { name: host("beta"), address: None, serial, removed: false };
    alpha
        .node
        .peers()
        .roster()
        .change(|list| {
            list.list.push(listed);
            Ok(true)
        })
        .unwrap();
    assert!(!gets_in(&alpha.address, attacker(Some((chain, key))), "beta"));
    alpha.audited("InvalidPurpose");
}

#[test]
fn a_node_cannot_call_itself_by_another_name() {
    let alpha = TestNode::first("alpha");
    let (chain, key, serial) = signed(alpha.dir.path(), "eve", Usage::Node);
    let eve = Member { name: host("eve"), address: None, serial, removed: false };
    alpha
        .node
        .peers()
        .roster()
        .change(|list| {
            list.list.push(eve);
            Ok(true)
        })
        .unwrap();
    assert!(
        !gets_in(&alpha.address, attacker(Some((chain, key))), "alpha"),
        "it greets as alpha with eve's certificate"
    );
}

#[test]
fn a_node_at_another_nodes_address_is_recognised() {
    let alpha = TestNode::first("alpha");
    let beta = TestNode::joined(&alpha, "beta");
    let gamma = TestNode::joined(&alpha, "gamma");
    // beta's address is given as gamma's: the certificate there says gamma.
    alpha
        .node
        .peers()
        .roster()
        .change(|list| Ok(set_address(list, &host("beta"), Some(&gamma.address))))
        .unwrap();
    assert!(alpha.ping("beta").unwrap_err().causes.iter().any(|cause| cause.contains("not valid for name")));
    assert_eq!(alpha.ping("gamma").unwrap(), Reply::Done);
    drop(beta.runtime);
}

#[test]
fn who_is_put_out_loses_open_connections_at_once_and_gets_no_new_ones() {
    let alpha = TestNode::first("alpha");
    let beta = TestNode::joined(&alpha, "beta");
    let mut open = beta.node.peers().connect(&host("alpha"), Purpose::Node).unwrap();
    let mut from_alpha = alpha.node.peers().connect(&host("beta"), Purpose::Node).unwrap();
    open.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    from_alpha.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    alpha.node.put_out(&Who::Local, &host("beta")).unwrap();
    let began = Instant::now();
    assert_eq!(open.read(&mut [0; 1]).unwrap_or(0), 0, "the connection from it is closed");
    assert_eq!(from_alpha.read(&mut [0; 1]).unwrap_or(0), 0, "and the one to it");
    assert!(began.elapsed() < Duration::from_secs(2), "at once: {:?}", began.elapsed());
    let _ = open.write_all(b"x");
    assert!(beta.ping("alpha").is_err());
    assert_eq!(alpha.ping("beta").unwrap_err().kind, Kind::Usage, "there is no such host any more");
    // Its name can be given anew, its old certificate stays worthless.
    let again = TestNode::joined(&alpha, "beta");
    assert_eq!(again.ping("alpha").unwrap(), Reply::Done);
    assert!(beta.ping("alpha").is_err());
}

#[test]
fn a_token_opens_once_and_only_in_time_and_only_under_its_name() {
    let alpha = TestNode::first("alpha");
    let token = alpha.token("beta");
    let attempt = |token: &str| {
        let dir = tempfile::tempdir().unwrap();
        let error = trust::join(dir.path(), token, None).map(|_| ()).unwrap_err();
        assert!(Identity::load(dir.path()).unwrap().is_none(), "nothing is left of the attempt");
        error
    };
    // Another name than the token's: the joiner changes what it says.
    let mut renamed = Token::parse(&token).unwrap();
    renamed.name = host("gamma");
    assert!(attempt(&renamed.to_text().unwrap()).message.contains("another name"));
    // A secret that nobody issued.
    let mut guessed = Token::parse(&token).unwrap();
    guessed.secret = [1; 32];
    assert!(attempt(&guessed.to_text().unwrap()).message.contains("not issued"));
    // Expired, as the authority's clock says, whatever the joiner's token claims.
    let soon = alpha.node.token(&Who::Local, &TokenRequest { name: host("late"), valid_seconds: 1 }).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    assert!(attempt(&soon.token).message.contains("expired"));
    let mut stretched = Token::parse(&soon.token).unwrap();
    stretched.expires_unix += 3600;
    assert!(attempt(&stretched.to_text().unwrap()).message.contains("expired"));
    // Good once; used again after its host was put out, it opens nothing.
    let dir = tempfile::tempdir().unwrap();
    trust::join(dir.path(), &token, None).unwrap();
    assert!(attempt(&token).message.contains("already"));
    alpha.node.put_out(&Who::Local, &host("beta")).unwrap();
    assert!(attempt(&token).message.contains("used before"));
    alpha.audited("used before");
}

#[test]
fn a_joiner_tells_its_secret_to_nobody_but_the_tokens_authority() {
    let (alpha, mallory) = (TestNode::first("alpha"), TestNode::first("mallory"));
    let beta = TestNode::joined(&alpha, "beta");
    let token = alpha.token("gamma");
    let dir = tempfile::tempdir().unwrap();
    // Another fleet's authority at the address; then a member that is not the authority, though it shows its certificate.
    for address in [&mallory.address, &beta.address] {
        let error = trust::join(dir.path(), &token, Some(address)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind, Kind::Refused, "{error:?}");
        assert!(error.causes.iter().any(|cause| cause.contains("nothing was said")), "{error:?}");
    }
    // The secret is still good: nobody heard it.
    trust::join(dir.path(), &token, None).unwrap();
}

#[test]
fn only_the_authority_says_who_is_a_member() {
    let alpha = TestNode::first("alpha");
    let beta = TestNode::joined(&alpha, "beta");
    let gamma = TestNode::joined(&alpha, "gamma");
    let newest = (*alpha.node.peers().roster().now()).clone();
    gamma.node.peers().roster().adopt(newest.clone()).unwrap();
    beta.node.peers().roster().adopt(newest.clone()).unwrap();
    let mut forged = newest;
    forged.version += 10;
    forged.list.retain(|member| member.name != host("alpha"));
    let error = gamma
        .node
        .peers()
        .ask(&host("beta"), &Request::NewMembers { members: (&forged).into() })
        .unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    assert!(beta.node.peers().roster().now().find(&host("alpha")).is_some());
    beta.audited("it is not the authority's node");
}

#[test]
fn a_stolen_node_cannot_give_away_what_it_does_not_own() {
    use ferry_model::handover::{Answer, Cas, Record, Standing};
    use ferry_model::ids::{Epoch, Hash, MoveId, WorkloadId};
    use ferry_session::decider::Embedded;
    let alpha = TestNode::first("alpha");
    let beta = TestNode::joined(&alpha, "beta");
    let id = WorkloadId([5; 16]);
    let journal = alpha.node.journals.open(id).unwrap();
    journal.lock().unwrap().append(&Embedded::first(id, &host("alpha"), alpha.node.boot())).unwrap();
    let new = Record {
        id,
        epoch: Epoch(2),
        owner: host("beta"),
        boot_id: beta.node.boot(),
        standing: Standing::Running,
        mv: Some(MoveId([1; 16])),
        hash: Some(Hash([2; 32])),
    };
    let cas = Cas { owner: host("alpha"), epoch: Epoch(1), new };
    let reply = beta.node.peers().ask(&host("alpha"), &Request::Cas { cas }).unwrap();
    assert!(matches!(reply, Reply::Decided { answer: Answer::Refused(_) }), "{reply:?}");
    let Some(record) = alpha.node.registry.local(id) else { panic!("the record is gone") };
    assert_eq!((record.owner, record.epoch), (host("alpha"), Epoch(1)));
    alpha.audited("Only the owner may give a workload away");
}
