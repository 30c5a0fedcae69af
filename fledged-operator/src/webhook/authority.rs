//! The private certificate authority: pure functions that decide about renewal and issue certificates.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

const DAY: Duration = Duration::from_secs(86_400);
/// Validity of the CA certificate. The bundle has to reach the API server only when this one is renewed.
const AUTHORITY_DAYS: u32 = 365;
/// Validity of the server certificate.
const SERVER_DAYS: u32 = 90;
/// Certificates are renewed when one part in this many of their validity is left: 30 days for the server
/// certificate, which leaves time to notice failing renewals.
const RENEWAL_FRACTION: u32 = 3;

/// A certificate could not be issued.
#[derive(Debug, thiserror::Error)]
#[error("cannot issue a certificate: {0}")]
pub struct IssueError(#[from] rcgen::Error);

/// What is stored: all in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Issued {
    /// Trusted CA certificates: the newest, then the previous one.
    pub(super) bundle: String,
    /// Private key of the newest CA certificate.
    pub(super) authority_key: String,
    /// The server certificate, signed by the newest CA.
    pub(super) certificate: String,
    /// Private key of the server certificate.
    pub(super) key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").finish_non_exhaustive()
    }
}

/// The certificates to store, or `None` if the stored ones are still good. The server certificate is for these DNS
/// names; its common name is the first of them.
pub(super) fn renewed(
    stored: Option<&Issued>,
    names: &[String],
    now: Timestamp,
) -> Result<Option<Issued>, IssueError> {
    let usable = stored.filter(|stored| authority_is_good(stored, now));
    let Some(stored) = usable else {
        let (authority, authority_key) = new_authority(now)?;
        let (certificate, key) = new_server(&authority, &authority_key, names, now)?;
        let before = stored.and_then(|stored| newest(&stored.bundle));
        // Replicas that still serve a certificate of the previous CA stay trusted until that CA expires.
        let before = before.filter(|before| remaining_validity(before, now).is_some());
        return Ok(Some(Issued {
            bundle: authority + &before.unwrap_or_default(),
            authority_key,
            certificate,
            key,
        }));
    };
    if server_is_good(stored, names, now) {
        return Ok(None);
    }
    let authority = newest(&stored.bundle).unwrap_or_default();
    let (certificate, key) = new_server(&authority, &stored.authority_key, names, now)?;
    Ok(Some(Issued {
        certificate,
        key,
        ..stored.clone()
    }))
}

fn authority_is_good(stored: &Issued, now: Timestamp) -> bool {
    let Some(authority) = newest(&stored.bundle) else {
        return false;
    };
    let key = KeyPair::from_pem(&stored.authority_key);
    key.is_ok_and(|key| Issuer::from_ca_cert_pem(&authority, key).is_ok())
        && remaining_validity(&authority, now)
            .is_some_and(|left| left > AUTHORITY_DAYS * DAY / RENEWAL_FRACTION)
}

fn server_is_good(stored: &Issued, names: &[String], now: Timestamp) -> bool {
    let issued = read(&stored.certificate, |certificate| {
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| {
            let names = names.value.general_names.iter();
            names.map(ToString::to_string).collect::<Vec<_>>()
        });
        (names.unwrap_or_default(), certificate.issuer().to_string())
    });
    let authority = newest(&stored.bundle);
    let signer = authority.and_then(|pem| read(&pem, |found| found.subject().to_string()));
    let fits = issued.zip(signer).is_some_and(|((found, issuer), signer)| {
        let named = |name: &String| found.contains(&format!("DNSName({name})"));
        issuer == signer && names.iter().all(named)
    });
    let pair = super::certificate::Certificate::from_pem(
        stored.certificate.as_bytes(),
        stored.key.as_bytes(),
    );
    fits && pair.is_ok()
        && remaining_validity(&stored.certificate, now)
            .is_some_and(|left| left > SERVER_DAYS * DAY / RENEWAL_FRACTION)
}

/// The first certificate of a bundle.
pub(super) fn newest(bundle: &str) -> Option<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let end = bundle.find(END)? + END.len();
    Some(format!("{}\n", bundle.get(..end)?.trim_start()))
}

fn read<T>(pem: &str, of: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let (pem, _) = Pem::read(std::io::Cursor::new(pem)).ok()?;
    pem.parse_x509().ok().map(|certificate| of(&certificate))
}

/// Remaining validity of a certificate; `None` if it has expired or is malformed.
fn remaining_validity(pem: &str, now: Timestamp) -> Option<Duration> {
    let seconds = read(pem, |found| found.validity().not_after.timestamp())?;
    let left = seconds.checked_sub(now.as_second())?;
    u64::try_from(left)
        .ok()
        .filter(|left| *left > 0)
        .map(Duration::from_secs)
}

/// Certificate parameters valid from yesterday, so that a client with a slow clock accepts them.
fn validity_params(days: u32, now: Timestamp) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::new(Vec::new())?;
    let day = |offset: i64| {
        let shifted = now.as_second().saturating_add(offset * 86_400);
        let date = Timestamp::from_second(shifted).unwrap_or(now);
        let date = date.to_zoned(TimeZone::UTC).date();
        let part = |number: i8| u8::try_from(number).unwrap_or(1);
        rcgen::date_time_ymd(date.year().into(), part(date.month()), part(date.day()))
    };
    params.not_before = day(-1);
    params.not_after = day(i64::from(days));
    Ok(params)
}

fn new_authority(now: Timestamp) -> Result<(String, String), IssueError> {
    let key = KeyPair::generate()?;
    let mut params = validity_params(AUTHORITY_DAYS, now)?;
    // The unique name lets a server certificate's issuer identify the CA that signed it.
    let name = format!("fledged webhook authority {}", now.as_second());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn new_server(
    authority: &str,
    authority_key: &str,
    names: &[String],
    now: Timestamp,
) -> Result<(String, String), IssueError> {
    let issuer = Issuer::from_ca_cert_pem(authority, KeyPair::from_pem(authority_key)?)?;
    let key = KeyPair::generate()?;
    let mut params = validity_params(SERVER_DAYS, now)?;
    params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    let name = names.first().map_or("fledged webhook", String::as_str);
    // A common name has at most 64 characters (X.520).
    let name: String = name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec![
            "web.ns.svc".to_owned(),
            "web.ns.svc.cluster.local".to_owned(),
        ]
    }

    fn at(days: i64) -> Timestamp {
        let start: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        Timestamp::from_second(start.as_second() + days * 86_400).unwrap()
    }

    fn certificates(bundle: &str) -> usize {
        bundle.matches("BEGIN CERTIFICATE").count()
    }

    #[test]
    fn certificates_are_renewed_when_a_third_is_left() {
        let first = renewed(None, &names(), at(0)).unwrap().unwrap();
        assert_eq!(certificates(&first.bundle), 1);
        for day in [0, 1, 30, 59] {
            assert_eq!(
                renewed(Some(&first), &names(), at(day)).unwrap(),
                None,
                "{day}"
            );
        }
        // A server's certificate: by the same authority.
        let second = renewed(Some(&first), &names(), at(61)).unwrap().unwrap();
        assert_eq!(second.bundle, first.bundle);
        assert_ne!(second.certificate, first.certificate);
        // The authority: the new one and, as long as it lasts, the one before it.
        let third = renewed(Some(&second), &names(), at(250)).unwrap().unwrap();
        assert_eq!(certificates(&third.bundle), 2);
        assert!(third.bundle.ends_with(&second.bundle));
        let late = renewed(Some(&second), &names(), at(400)).unwrap().unwrap();
        assert_eq!(certificates(&late.bundle), 1);
        // The one before the one before is forgotten.
        let fourth = renewed(Some(&third), &names(), at(500)).unwrap().unwrap();
        assert_eq!(certificates(&fourth.bundle), 2);
        assert!(!fourth.bundle.contains(second.bundle.trim()));
    }

    #[test]
    fn server_certificate_is_issued_by_the_authority() {
        let issued = renewed(None, &names(), at(0)).unwrap().unwrap();
        let (_, authority) = x509_parser::pem::parse_x509_pem(issued.bundle.as_bytes()).unwrap();
        let (_, server) = x509_parser::pem::parse_x509_pem(issued.certificate.as_bytes()).unwrap();
        let (authority, server) = (
            authority.parse_x509().unwrap(),
            server.parse_x509().unwrap(),
        );
        assert_eq!(server.issuer(), authority.subject());
        assert!(authority.is_ca() && !server.is_ca());
    }

    #[test]
    fn changed_names_and_invalid_content_are_reissued() {
        let issued = renewed(None, &names(), at(0)).unwrap().unwrap();
        let other = ["api.ns.svc".to_owned()];
        assert!(renewed(Some(&issued), &other, at(0)).unwrap().is_some());
        let another = renewed(None, &names(), at(1)).unwrap().unwrap();
        for spoilt in [
            Issued {
                bundle: "x".to_owned(),
                ..issued.clone()
            },
            Issued {
                authority_key: "x".to_owned(),
                ..issued.clone()
            },
            Issued {
                certificate: String::new(),
                ..issued.clone()
            },
            Issued {
                key: another.key.clone(),
                ..issued.clone()
            },
            Issued {
                bundle: another.bundle.clone(),
                authority_key: another.authority_key.clone(),
                ..issued.clone()
            },
        ] {
            let mended = renewed(Some(&spoilt), &names(), at(1)).unwrap().unwrap();
            assert_eq!(renewed(Some(&mended), &names(), at(1)).unwrap(), None);
        }
    }

    #[test]
    fn debug_output_shows_no_key() {
        let issued = renewed(None, &names(), at(0)).unwrap().unwrap();
        assert!(!format!("{issued:?}").contains("KEY"));
    }
}
