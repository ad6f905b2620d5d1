//! The fleet's own authority: one key, on one node, that signs what the others are believed by.

use super::certificate::{self, Usage};
use crate::files;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::{Hash, HostName};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The authority's key and certificate.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// Makes a new authority in the state directory `state`.
    pub fn create(state: &Path) -> Result<Self> {
        let dir = Self::dir(state);
        files::make_private_dir(&dir)?;
        let key = certificate::new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Ferry fleet authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let own = params.self_signed(&key).map_err(|cause| unable(&cause))?;
        files::write_durably(&dir.join("authority.key"), key.serialize_pem().as_bytes())?;
        files::write_durably(&dir.join("authority.pem"), own.pem().as_bytes())?;
        Ok(Self { issuer: Issuer::new(params, key), certificate: own.der().clone() })
    }

    /// The authority whose key is on this host, if it is.
    pub fn load(state: &Path) -> Result<Option<Self>> {
        let dir = Self::dir(state);
        let (key, own) = (
            files::read_if_there(&dir.join("authority.key"))?,
            files::read_if_there(&dir.join("authority.pem"))?,
        );
        let (Some(key), Some(own)) = (key, own) else { return Ok(None) };
        let key = String::from_utf8_lossy(&key).into_owned();
        let key = KeyPair::from_pem(&key).map_err(|cause| unable(&cause))?;
        let certificate = CertificateDer::from_pem_slice(&own).map_err(|cause| unable(&cause))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|cause| unable(&cause))?;
        Ok(Some(Self { issuer, certificate }))
    }

    /// Signs that the holder of `key` is `name`, for `usage`, until it is revoked.
    pub fn sign(
        &self,
        key: &impl rcgen::PublicKeyData,
        name: &HostName,
        usage: Usage,
    ) -> Result<CertificateDer<'static>> {
        self.sign_params(key, &certificate::params(name, usage)?)
    }

    /// As [`Self::sign`], and it ends by itself at `expires_unix`, seconds since 1970.
    pub fn sign_until(
        &self,
        key: &impl rcgen::PublicKeyData,
        name: &HostName,
        usage: Usage,
        expires_unix: u64,
    ) -> Result<CertificateDer<'static>> {
        let mut params = certificate::params(name, usage)?;
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(expires_unix);
        self.sign_params(key, &params)
    }

    fn sign_params(
        &self,
        key: &impl rcgen::PublicKeyData,
        params: &CertificateParams,
    ) -> Result<CertificateDer<'static>> {
        let signed = params.clone().signed_by(key, &self.issuer).map_err(|cause| unable(&cause))?;
        Ok(signed.der().clone())
    }

    /// Its certificate, which every member has.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Where it keeps what only it has.
    #[must_use]
    pub fn dir(state: &Path) -> PathBuf {
        state.join("authority")
    }
}

/// By what an authority is recognised: the hash of its certificate.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> Hash {
    Hash::of(certificate)
}

fn unable(cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::from_source(Kind::Unable, cause).context("The fleet's authority could not do its work")
}
