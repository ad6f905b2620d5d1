//! Joining a fleet. The joiner checks the fingerprint of its token against who answers before it says anything, then
//! shows the secret and a request for its certificate. The authority marks the token as used, durably, before it signs.

use super::authority::Authority;
use super::certificate::{self, Usage};
use super::identity::Identity;
use super::members::{Member, Members, MembersRecord};
use super::roster::Roster;
use super::token::{self, Token};
use super::{now_unix, tls};
use crate::frame;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use rcgen::{CertificateParams, CertificateSigningRequestParams};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long the authority's node may take for each step.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a joiner says, once it knows whom it speaks to.
#[derive(Encode, Decode)]
pub struct JoinRequest {
    #[cbor(n(0), with = "minicbor::bytes")]
    secret: [u8; 32],
    #[n(1)]
    name: HostName,
    #[n(2)]
    request: ByteVec,
}

/// What the authority answers.
#[derive(Encode, Decode)]
pub enum JoinAnswer {
    /// The joiner is a member now.
    #[n(0)]
    Welcome {
        /// Its certificate.
        #[n(0)]
        certificate: ByteVec,
        /// The authority's certificate.
        #[n(1)]
        authority: ByteVec,
        /// Who else is a member.
        #[n(2)]
        members: MembersRecord,
    },
    /// It is not.
    #[n(1)]
    Refused {
        /// Why.
        #[n(0)]
        error: Error,
    },
}

/// Joins the fleet that `token` is for; the identity goes to the state directory `state`. `address` overrides where the
/// token says that the authority is reached.
///
/// # Errors
/// `Refused` if the one who answers is not the token's authority, or the authority refuses the token.
pub fn join(state: &Path, token: &str, address: Option<&str>) -> Result<Identity> {
    let token = Token::parse(token)?;
    if Identity::load(state)?.is_some() {
        return Err(Error::new(Kind::Refused, format!("{} already belongs to a fleet", state.display())));
    }
    if now_unix() >= token.expires_unix {
        return Err(Error::new(Kind::Refused, "The join token has expired").hint("ask for another one"));
    }
    let address = address.or(token.address.as_deref()).ok_or_else(|| {
        Error::new(Kind::Usage, "The token does not say where the authority is reached")
            .hint("say it with --address")
    })?;
    let key = certificate::new_key()?;
    let request = CertificateParams::default()
        .serialize_request(&key)
        .map_err(|cause| Error::from_source(Kind::Bug, &cause))?;
    let request = JoinRequest {
        secret: token.secret,
        name: token.name.clone(),
        request: request.der().to_vec().into(),
    };
    let answer = ask(address, &token, &request)
        .map_err(|error| error.context(format!("The authority at {address} could not be asked")))?;
    match answer {
        JoinAnswer::Refused { error } => Err(error),
        JoinAnswer::Welcome { certificate, authority, members } => {
            let (certificate, authority) =
                (CertificateDer::from(certificate.to_vec()), CertificateDer::from(authority.to_vec()));
            if super::authority::fingerprint(&authority) != token.fingerprint {
                return Err(Error::new(Kind::Refused, "The answer names another authority than the token"));
            }
            Members::from(members).save(state)?;
            Identity::create(state, &key.serialize_pem(), &certificate, &authority)
        }
    }
}

fn ask(address: &str, token: &Token, request: &JoinRequest) -> Result<JoinAnswer> {
    let unable = |cause: &(dyn std::error::Error + 'static)| Error::from_source(Kind::Unable, cause);
    let target = address.to_socket_addrs().map_err(|cause| unable(&cause))?.next();
    let target = target.ok_or_else(|| Error::new(Kind::Unable, "The address has no host"))?;
    let stream = TcpStream::connect_timeout(&target, PATIENCE).map_err(|cause| unable(&cause))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|cause| unable(&cause))?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(|cause| unable(&cause))?;
    let config = Arc::new(tls::joiner(token.fingerprint)?);
    // No name is looked for, and none is sent: the fingerprint decides.
    let nobody = certificate::server_name(&token.name)?;
    let connection = rustls::ClientConnection::new(config, nobody).map_err(|cause| unable(&cause))?;
    let mut stream = rustls::StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|cause| match cause.get_ref() {
            Some(inner) if inner.downcast_ref::<rustls::Error>().is_some_and(is_about_certificate) => {
                Error::from_source(Kind::Refused, &cause).context(
                    "Whoever answers there is not the authority that the token names; nothing was said to it",
                )
            }
            _ => unable(&cause),
        })?;
    }
    frame::send(&mut stream, request)?;
    frame::receive(&mut stream)
}

fn is_about_certificate(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(_))
}

/// The authority's side: decides about a request. What it changed is durable when it returns.
pub fn admit(state: &Path, roster: &Roster, request: &JoinRequest) -> Result<JoinAnswer> {
    let authority = Authority::load(state)?;
    let authority =
        authority.ok_or_else(|| Error::new(Kind::Refused, "This node does not hold the authority's key"))?;
    if roster.now().taken(&request.name, now_unix()) {
        return Err(Error::new(Kind::Refused, format!("There is a member named {} already", request.name))
            .hint(format!("put it out first: ferry node rm {}", request.name)));
    }
    let wanted = CertificateSigningRequestDer::from(request.request.to_vec());
    let wanted = CertificateSigningRequestParams::from_der(&wanted).map_err(|cause| {
        Error::from_source(Kind::Refused, &cause).context("The request for a certificate is not valid")
    })?;
    // Of what is asked for only the key counts; name and usage are the token's.
    token::redeem(state, &request.secret, &request.name)?;
    let signed = authority.sign(&wanted.public_key, &request.name, Usage::Node)?;
    let serial = certificate::read(&signed)?.serial;
    let members = roster.change(|members| {
        if members.taken(&request.name, now_unix()) {
            return Err(Error::new(
                Kind::Refused,
                format!("There is a member named {} already", request.name),
            ));
        }
        members.list.push(Member { name: request.name.clone(), address: None, serial, removed: false });
        Ok(true)
    })?;
    Ok(JoinAnswer::Welcome {
        certificate: signed.to_vec().into(),
        authority: authority.certificate().to_vec().into(),
        members: (&*members).into(),
    })
}

impl JoinRequest {
    /// Who wants to join.
    #[must_use]
    pub fn name(&self) -> &HostName {
        &self.name
    }
}
