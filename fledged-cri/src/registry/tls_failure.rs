//! What went wrong in a TLS handshake, in words that say what to mend.

use std::error::Error as StdError;
use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

/// Most names of a certificate that a message lists.
const NAMES_MAX: usize = 5;

/// The TLS error among the causes of an error.
pub(super) fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found);
        }
        // The source of an I/O error is that of its content.
        let content = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(found) = content.and_then(|content| tls_error(content)) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Whether the server has answered with something that is not TLS.
pub(super) fn is_not_tls(error: &Error) -> bool {
    matches!(error, Error::InvalidMessage(_))
}

/// Whether the server has answered with TLS, and refused.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::AlertReceived(_) | Error::PeerIncompatible(_) | Error::InvalidCertificate(_)
    )
}

/// What the node's configuration has to change, or `None` for a problem that may pass.
pub(super) fn misconfiguration(error: &Error) -> Option<String> {
    match error {
        Error::InvalidMessage(_) => {
            Some("it speaks plain HTTP, or another protocol than HTTPS".to_owned())
        }
        Error::InvalidCertificate(problem) => Some(certificate(problem)),
        Error::NoCertificatesPresented => Some("it has no certificate".to_owned()),
        Error::PeerIncompatible(_) => {
            Some("it supports no version or algorithm of TLS that is supported here".to_owned())
        }
        Error::AlertReceived(alert) => match alert {
            AlertDescription::BadCertificate | AlertDescription::CertificateRequired => {
                Some("it requires a client certificate".to_owned())
            }
            AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => {
                Some(format!("it refuses the client certificate: {alert:?}"))
            }
            AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity
            | AlertDescription::NoApplicationProtocol
            | AlertDescription::ProtocolVersion
            | AlertDescription::UnrecognisedName => {
                Some(format!("it refuses the TLS handshake: {alert:?}"))
            }
            _ => None,
        },
        _ => None,
    }
}

fn certificate(problem: &CertificateError) -> String {
    match problem {
        // An authority of the same name, with another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is signed by an unknown authority".to_owned()
        }
        CertificateError::Expired => "its certificate has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate has expired on {}", date(*not_after))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "its certificate is not valid before {}, and this machine's clock says {}",
            date(*not_before),
            date(*time)
        ),
        CertificateError::NotValidForName => "its certificate is for another name".to_owned(),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let mut names: Vec<_> = presented.iter().map(|name| plain_name(name)).collect();
            let more = names.len().saturating_sub(NAMES_MAX);
            names.truncate(NAMES_MAX);
            let mut names = names.join(", ");
            if names.is_empty() {
                "no name".clone_into(&mut names);
            }
            if more > 0 {
                names = format!("{names} and {more} more");
            }
            let expected = expected.to_str();
            format!("its certificate is valid for {names}, not for {expected}")
        }
        CertificateError::Revoked => "its certificate is revoked".to_owned(),
        CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id,
            ..
        } => unsupported(&[signature_algorithm_id]),
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id,
            public_key_algorithm_id,
        } => unsupported(&[public_key_algorithm_id, signature_algorithm_id]),
        other => format!("its certificate is not accepted: {other}"),
    }
}

/// `r.lan` of `DnsName("r.lan")`.
fn plain_name(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_matches(|c: char| "\"()".contains(c))
}

fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(
            || "a date that cannot be represented".to_owned(),
            |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        )
}

/// The object identifiers of algorithms that ring does not have, in DER.
const ALGORITHMS: [(&[u8], &str); 8] = [
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], "ECDSA on the curve P-521"),
    (
        &[0x2b, 0x81, 0x04, 0x00, 0x0a],
        "ECDSA on the curve secp256k1",
    ),
    (&[0x2b, 0x65, 0x71], "Ed448"),
    (
        &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01],
        "ECDSA with SHA-1",
    ),
    (
        &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04],
        "ECDSA with SHA-512 on another curve than P-521",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05],
        "RSA with SHA-1",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04],
        "RSA with MD5",
    ),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04], "DSA"),
];

fn unsupported(identifiers: &[&Vec<u8>]) -> String {
    let has = |oid: &[u8]| {
        identifiers
            .iter()
            .any(|id| id.windows(oid.len()).any(|part| part == oid))
    };
    let name = ALGORITHMS
        .iter()
        .find(|(oid, _)| has(oid))
        .map_or("of another kind", |(_, name)| name);
    format!("its certificate has a signature that is not supported here: {name}")
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    fn text(problem: CertificateError) -> String {
        misconfiguration(&Error::InvalidCertificate(problem)).unwrap()
    }

    #[test]
    fn a_certificate_error_says_what_is_wrong() {
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        assert_eq!(
            text(CertificateError::ExpiredContext {
                time: at(2_000_000_000),
                not_after: at(1_700_000_000),
            }),
            "its certificate has expired on 2023-11-14 22:13 UTC"
        );
        assert_eq!(
            text(CertificateError::NotValidYetContext {
                time: at(0),
                not_before: at(1_700_000_000),
            }),
            "its certificate is not valid before 2023-11-14 22:13 UTC, and this machine's clock says 1970-01-01 00:00 UTC"
        );
        let presented = ["a", "b", "c", "d", "e", "f"].map(|name| format!("DnsName({name:?})"));
        assert_eq!(
            text(CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("r.lan").unwrap(),
                presented: presented.to_vec(),
            }),
            "its certificate is valid for a, b, c, d, e and 1 more, not for r.lan"
        );
    }

    #[test]
    fn unsupported_algorithms_are_named() {
        let key = vec![0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
        let signature = vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];
        let problem =
            |key: &Vec<u8>| CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: signature.clone(),
                public_key_algorithm_id: key.clone(),
            };
        assert!(text(problem(&key)).contains("P-521"));
        assert!(text(problem(&vec![])).contains("SHA-512"));
    }

    #[test]
    fn errors_that_may_pass_are_no_misconfiguration() {
        let passing = Error::AlertReceived(AlertDescription::InternalError);
        assert_eq!(misconfiguration(&passing), None);
        assert_eq!(misconfiguration(&Error::HandshakeNotComplete), None);
    }
}
