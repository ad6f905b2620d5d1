//! This node's identity: its key, its certificate, and the certificate of the authority that signed it.

use super::authority::fingerprint;
use super::certificate::{self, Statement};
use super::members::Members;
use crate::files;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::{Hash, HostName};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};

/// Who this node is.
pub struct Identity {
    statement: Statement,
    authority_node: HostName,
    key_pem: String,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
}

impl Identity {
    /// Stores a new identity in the state directory, the certificate last: with it the identity is there.
    pub fn create(
        state: &Path,
        key_pem: &str,
        certificate: &CertificateDer<'static>,
        authority: &CertificateDer<'static>,
    ) -> Result<Self> {
        let dir = Self::dir(state);
        files::make_private_dir(&dir)?;
        files::write_durably(&dir.join("node.key"), key_pem.as_bytes())?;
        files::write_durably(&dir.join("authority.pem"), pem(authority).as_bytes())?;
        files::write_durably(&dir.join("node.pem"), pem(certificate).as_bytes())?;
        Self::require(state)
    }

    /// The identity in the state directory, if there is one.
    pub fn load(state: &Path) -> Result<Option<Self>> {
        let dir = Self::dir(state);
        let Some(own) = files::read_if_there(&dir.join("node.pem"))? else { return Ok(None) };
        let key =
            files::read_if_there(&dir.join("node.key"))?.ok_or_else(|| damaged("its key is missing"))?;
        let authority = files::read_if_there(&dir.join("authority.pem"))?;
        let authority = authority.ok_or_else(|| damaged("the authority's certificate is missing"))?;
        let parse =
            |pem: &[u8]| CertificateDer::from_pem_slice(pem).map_err(|cause| damaged(&cause.to_string()));
        let certificate = parse(&own)?;
        let members = Members::load(state)?.ok_or_else(|| damaged("the list of members is missing"))?;
        Ok(Some(Self {
            statement: certificate::read(&certificate)?,
            authority_node: members.authority,
            key_pem: String::from_utf8_lossy(&key).into_owned(),
            certificate,
            authority: parse(&authority)?,
        }))
    }

    /// The identity in the state directory.
    ///
    /// # Errors
    /// `Usage` with a hint if there is none.
    pub fn require(state: &Path) -> Result<Self> {
        Self::load(state)?.ok_or_else(|| {
            Error::new(Kind::Usage, format!("This host belongs to no fleet (nothing in {})", state.display()))
                .hint("make one: ferry node init")
                .hint("or join one: ferry node join --token-file FILE")
        })
    }

    /// Its name: the one in its certificate.
    #[must_use]
    pub fn name(&self) -> &HostName {
        &self.statement.name
    }

    /// Number of its certificate.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.statement.serial
    }

    /// The node that holds the authority's key.
    #[must_use]
    pub fn authority_node(&self) -> &HostName {
        &self.authority_node
    }

    /// Whether that is this node.
    #[must_use]
    pub fn is_authority(&self) -> bool {
        self.authority_node == self.statement.name
    }

    /// By what the fleet's authority is recognised.
    #[must_use]
    pub fn fingerprint(&self) -> Hash {
        fingerprint(&self.authority)
    }

    /// The authority's certificate.
    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// What it shows to peers: its certificate and the authority's (a joiner needs that to check the fingerprint).
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone(), self.authority.clone()]
    }

    /// Its key.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|cause| damaged(&cause.to_string()))
    }

    /// Where it is kept.
    #[must_use]
    pub fn dir(state: &Path) -> PathBuf {
        state.join("trust")
    }
}

/// A certificate as text.
pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64(certificate).as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let group =
            three.iter().fold(0_u32, |group, &byte| group << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit)) & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text
}

fn damaged(why: &str) -> Error {
    Error::new(Kind::Unable, why).context("This node's identity is damaged").hint("join the fleet anew")
}
