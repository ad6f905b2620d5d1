//! Operators: who uses the API of the fleet's nodes from elsewhere. An operator's key is made where it will be used and
//! stays there; the authority signs its public half. The certificate ends by itself, and is put out by name before that.

use super::authority::Authority;
use super::certificate::{self, Usage};
use super::identity::pem;
use super::members::Operator;
use super::now_unix;
use super::roster::Roster;
use crate::files;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use rcgen::{CertificateParams, CertificateSigningRequestParams};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;

/// Longest time for which an operator's certificate is good: two years.
pub const VALID_SECONDS_MAX: u64 = 2 * 365 * 86_400;

/// Longest request for a certificate, bytes.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// The files of an operator's directory: its key, its certificate, the authority's certificate.
const FILES: [&str; 3] = ["operator.key", "operator.pem", "authority.pem"];

/// What the authority has signed, as text.
pub struct Signed {
    /// The operator's certificate.
    pub certificate: String,
    /// The authority's.
    pub authority: String,
    /// When the operator's ends, seconds since 1970.
    pub expires_unix: u64,
}

/// The authority's side: makes `name` an operator for `seconds`, with the key of `request` (PKCS#10, PEM).
///
/// # Errors
/// `Refused` if the name is taken or the request is not valid.
pub fn sign(state: &Path, roster: &Roster, name: &HostName, request: &str, seconds: u64) -> Result<Signed> {
    let authority = Authority::load(state)?;
    let authority =
        authority.ok_or_else(|| Error::new(Kind::Refused, "This node does not hold the authority's key"))?;
    let bad = |cause: &(dyn std::error::Error + 'static)| {
        Error::from_source(Kind::Usage, cause).context("The request for a certificate is not valid")
    };
    if request.len() > REQUEST_BYTES_MAX {
        return Err(Error::new(Kind::Usage, "The request for a certificate is too long"));
    }
    // Of what is asked for only the key counts; that the asker holds it is verified by the request's signature.
    let wanted = CertificateSigningRequestParams::from_pem(request).map_err(|cause| bad(&cause))?;
    let expires_unix = now_unix() + seconds.clamp(1, VALID_SECONDS_MAX);
    let signed = authority.sign_until(&wanted.public_key, name, Usage::Operator, expires_unix)?;
    let serial = certificate::read(&signed)?.serial;
    roster.change(|members| {
        if members.taken(name, now_unix()) {
            return Err(Error::new(
                Kind::Refused,
                format!("There is a host or an operator named {name} already"),
            )
            .hint(format!("put it out first: ferry node rm {name}")));
        }
        members.operators.push(Operator { name: name.clone(), serial, expires_unix, removed: false });
        Ok(true)
    })?;
    Ok(Signed { certificate: pem(&signed), authority: pem(authority.certificate()), expires_unix })
}

/// A new key and the request to sign it, both PEM.
pub fn request() -> Result<(String, String)> {
    let key = certificate::new_key()?;
    let request = CertificateParams::default()
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(|cause| Error::from_source(Kind::Bug, &cause))?;
    Ok((key.serialize_pem(), request))
}

/// Whether `dir` is new or empty: it becomes its owner's alone, and nothing in it is replaced. Asked before the authority is,
/// which signs a name once.
///
/// # Errors
/// `Refused` if there is something in it.
pub fn require_free(dir: &Path) -> Result<()> {
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(Error::from_source(Kind::Refused, &cause)
            .context(format!("{} cannot be used", dir.display()))
            .hint("choose another directory with --out")),
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::new(Kind::Refused, format!("{} is not empty", dir.display()))
            .hint("choose another directory with --out")),
    }
}

/// Puts what an operator needs into `dir`: a directory of 0700, files of 0600.
pub fn save(dir: &Path, key: &str, certificate: &str, authority: &str) -> Result<()> {
    files::make_private_dir(dir)?;
    for (file, text) in FILES.iter().zip([key, certificate, authority]) {
        files::write_durably(&dir.join(file), text.as_bytes())?;
    }
    Ok(())
}

/// What an operator shows and believes.
pub struct Credentials {
    /// Its certificate.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The authority of its fleet.
    pub authority: CertificateDer<'static>,
}

/// Reads an operator's directory.
///
/// # Errors
/// `Usage` if something of it is missing or damaged.
pub fn load(dir: &Path) -> Result<Credentials> {
    let wrong = |why: String| {
        Error::new(Kind::Usage, why)
            .context(format!("{} is not an operator's directory", dir.display()))
            .hint("`ferry node operator NAME --out DIR` on the authority's node makes one")
    };
    let read = |file: &str| {
        files::read_if_there(&dir.join(file))?.ok_or_else(|| wrong(format!("there is no {file} in it")))
    };
    let [key, own, authority] = FILES;
    let (key, own, authority) = (read(key)?, read(own)?, read(authority)?);
    let certificate =
        |pem: &[u8]| CertificateDer::from_pem_slice(pem).map_err(|cause| wrong(cause.to_string()));
    Ok(Credentials {
        chain: vec![certificate(&own)?],
        key: PrivateKeyDer::from_pem_slice(&key).map_err(|cause| wrong(cause.to_string()))?,
        authority: certificate(&authority)?,
    })
}
