//! Certificates: how they are made, and what they say.
//!
//! A usage (an extended key usage of Ferry's own) stands in each: a certificate for an operator opens no door for a
//! node, and only the authority's own node may be told a join token's secret. A node's name stands in it as
//! `NAME.node.ferry`, an operator's as `NAME.operator.ferry`, so that no name can be taken for an address or for the other's.

use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, ServerName};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Root of Ferry's usages: an arc that needs no registration (ITU-T X.667), with a random number.
const ARC: [u64; 3] = [2, 25, 4_093_571_886_207_311_549];

/// What follows the name of a node in its certificate.
pub const NODE_SUFFIX: &str = ".node.ferry";

/// What follows the name of an operator.
const OPERATOR_SUFFIX: &str = ".operator.ferry";

/// What a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Being a node.
    Node,
    /// Being the node that holds the authority's key: a node, and more.
    Authority,
    /// Asking a node for something, as a person.
    Operator,
}

impl Usage {
    fn number(self) -> u64 {
        match self {
            Self::Node => 1,
            Self::Authority => 2,
            Self::Operator => 3,
        }
    }

    fn oid(self) -> Vec<u64> {
        [&ARC[..], &[self.number()]].concat()
    }

    fn suffix(self) -> &'static str {
        if self.is_node() { NODE_SUFFIX } else { OPERATOR_SUFFIX }
    }

    /// Whether the holder acts as a node.
    #[must_use]
    pub fn is_node(self) -> bool {
        self != Self::Operator
    }
}

/// What a verified certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Whose it is.
    pub name: HostName,
    /// What it is good for.
    pub usage: Usage,
    /// Its number: what is revoked.
    pub serial: Vec<u8>,
}

/// A new key pair (ECDSA, P-256).
pub fn new_key() -> Result<KeyPair> {
    KeyPair::generate()
        .map_err(|cause| Error::from_source(Kind::Unable, &cause).context("No key could be made"))
}

/// What stands in a certificate for `name`.
pub fn params(name: &HostName, usage: Usage) -> Result<CertificateParams> {
    let bad = |cause: &(dyn std::error::Error + 'static)| {
        Error::from_source(Kind::Usage, cause).context(format!("'{name}' cannot stand in a certificate"))
    };
    let full = format!("{name}{}", usage.suffix());
    let san = full.try_into().map_err(|cause: rcgen::Error| bad(&cause))?;
    server_name(name)?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::DnsName(san)];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
    if usage.is_node() {
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.insert_extended_key_usage(ExtendedKeyUsagePurpose::Other(usage.oid()));
    let mut serial = [0; 16];
    super::fill_random(&mut serial)?;
    serial[0] &= 0x7f;
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
    Ok(params)
}

/// The name by which a node is verified.
pub fn server_name(name: &HostName) -> Result<ServerName<'static>> {
    ServerName::try_from(format!("{name}{NODE_SUFFIX}")).map_err(|cause| {
        Error::from_source(Kind::Usage, &cause).context(format!("'{name}' cannot be the name of a node"))
    })
}

/// Reads what a certificate says. It does not verify it: that is done before, by its chain.
///
/// # Errors
/// `Refused` if it is not a certificate of a node or operator of Ferry's.
pub fn read(certificate: &CertificateDer<'_>) -> Result<Statement> {
    let not_ours = |why: &str| {
        Error::new(Kind::Refused, "The certificate is not one of a node or operator").context_end(why)
    };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| not_ours("it cannot be parsed"))?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.ok_or_else(|| not_ours("it names nobody"))?;
    let usages = parsed.extended_key_usage().ok().flatten().ok_or_else(|| not_ours("it says no usage"))?;
    let held: Vec<Vec<u64>> =
        usages.value.other.iter().filter_map(|oid| oid.iter().map(Iterator::collect)).collect();
    let usage = [Usage::Node, Usage::Authority, Usage::Operator]
        .into_iter()
        .filter(|usage| held.contains(&usage.oid()));
    let [usage] = usage.collect::<Vec<_>>()[..] else {
        return Err(not_ours("it has not exactly one usage of Ferry's"));
    };
    let name = match names.value.general_names.as_slice() {
        [GeneralName::DNSName(full)] => full.strip_suffix(usage.suffix()),
        _ => None,
    };
    let name = name.and_then(|name| HostName::new(name).ok());
    let name = name.ok_or_else(|| not_ours("its name is not one for its usage"))?;
    Ok(Statement { name, usage, serial: parsed.raw_serial().to_vec() })
}

trait ContextEnd {
    fn context_end(self, why: &str) -> Self;
}

impl ContextEnd for Error {
    fn context_end(mut self, why: &str) -> Self {
        self.causes.push(why.to_owned());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::authority::Authority;

    #[test]
    fn a_certificate_says_name_and_usage() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path()).unwrap();
        let key = new_key().unwrap();
        for (name, usage) in
            [("alpha", Usage::Node), ("10.0.0.1", Usage::Authority), ("a_b", Usage::Operator)]
        {
            let name = HostName::new(name).unwrap();
            let said = read(&authority.sign(&key, &name, usage).unwrap()).unwrap();
            assert_eq!((said.name, said.usage), (name, usage));
        }
        assert!(read(authority.certificate()).is_err(), "the authority's own certificate is nobody's");
    }

    #[test]
    fn what_is_not_a_certificate_is_refused() {
        assert_eq!(read(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])).unwrap_err().kind, Kind::Refused);
    }
}
