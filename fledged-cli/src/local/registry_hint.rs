//! What to change if a registry does not fit the configuration of this machine.

use fledged_core::error::Reason;
use fledged_core::model::ImageRef;
use fledged_cri::target::RuntimeUri;

/// Who connects to the registry, and where it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// This program, for `check` and `oci:`.
    Own,
    /// A container runtime that serves CRI.
    Cri,
    /// Docker Engine.
    Docker,
}

impl Client {
    pub(crate) fn of(uri: &RuntimeUri) -> Self {
        match uri {
            RuntimeUri::Oci(_) => Self::Own,
            RuntimeUri::Docker(_) => Self::Docker,
            _ => Self::Cri,
        }
    }
}

/// What is wrong between the registry and the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    PlainHttp,
    Https,
    UnknownAuthority,
    Expired,
    WrongName,
    ClientCertificate,
}

/// The texts of this program, and of Go, in which the runtimes are written.
const TEXTS: [(Problem, &[&str]); 6] = [
    (
        Problem::PlainHttp,
        &[
            "it speaks plain http",
            "gave http response to https client",
            "does not look like a tls handshake",
        ],
    ),
    (
        Problem::Https,
        &[
            "sent an http request to an https server",
            "plain http request was sent to https port",
        ],
    ),
    (
        Problem::ClientCertificate,
        &[
            "client certificate",
            "certificate required",
            "no required ssl certificate",
        ],
    ),
    (Problem::UnknownAuthority, &["unknown authority"]),
    (
        Problem::Expired,
        &["has expired", "not yet valid", "is not valid before"],
    ),
    (
        Problem::WrongName,
        &[
            "certificate is valid for",
            "doesn't contain any ip sans",
            "legacy common name",
        ],
    ),
];

/// What to change so that the image can be pulled, if the failure is about the configuration.
pub(crate) fn registry_hint(
    image: &ImageRef,
    reason: Reason,
    message: &str,
    client: Client,
) -> Option<String> {
    if reason != Reason::RegistryMisconfigured {
        return None;
    }
    let message = message.to_lowercase();
    let has = |texts: &&[&str]| texts.iter().any(|text| message.contains(text));
    let (problem, _) = TEXTS.iter().find(|(_, texts)| has(texts))?;
    let host = image.registry();
    Some(match (problem, client) {
        (Problem::PlainHttp, Client::Own) => {
            format!("if the registry serves plain HTTP: --plain-http {host}")
        }
        (Problem::PlainHttp, Client::Cri) => format!(
            "if the registry serves plain HTTP: server = \"http://{host}\" in containerd's \
             certs.d/{host}/hosts.toml, or insecure = true in CRI-O's registries.conf"
        ),
        (Problem::PlainHttp, Client::Docker) => format!(
            "if the registry serves plain HTTP: add {host} to insecure-registries in Docker's daemon.json"
        ),
        (Problem::Https, Client::Own) => {
            format!("the registry speaks HTTPS: no --plain-http {host}")
        }
        (Problem::Https, _) => {
            format!(
                "the registry speaks HTTPS: the runtime's configuration for {host} says plain HTTP"
            )
        }
        (Problem::UnknownAuthority, Client::Own) => format!(
            "name the registry's authority: --registry-ca {host}=FILE; or skip verification: \
             --insecure-registry {host}"
        ),
        (Problem::UnknownAuthority, Client::Cri) => format!(
            "add the registry's authority: ca.crt in containerd's certs.d/{host}, or in CRI-O's \
             /etc/containers/certs.d/{host}"
        ),
        (Problem::UnknownAuthority, Client::Docker) => {
            format!("add the registry's authority: /etc/docker/certs.d/{host}/ca.crt")
        }
        (Problem::Expired, _) => {
            "renew the registry's certificate, or set this machine's clock".to_owned()
        }
        (Problem::WrongName, _) => {
            "use a name of the certificate in the reference, or issue one for this name".to_owned()
        }
        (Problem::ClientCertificate, _) => format!(
            "the registry requires a client certificate: client in certs.d/{host}/hosts.toml, or \
             client.cert and client.key beside it"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(message: &str, client: Client) -> Option<String> {
        let image = ImageRef::parse("r.lan:5000/app:1").unwrap();
        registry_hint(&image, Reason::RegistryMisconfigured, message, client)
    }

    #[test]
    fn each_problem_has_a_hint_for_each_client() {
        for (message, own, cri, docker) in [
            (
                "http: server gave HTTP response to HTTPS client",
                "--plain-http r.lan:5000",
                "certs.d/r.lan:5000/hosts.toml",
                "daemon.json",
            ),
            (
                "tls: failed to verify certificate: x509: certificate signed by unknown authority",
                "--registry-ca r.lan:5000=FILE",
                "certs.d/r.lan:5000",
                "/etc/docker/certs.d/r.lan:5000/ca.crt",
            ),
            (
                "x509: certificate has expired or is not yet valid",
                "clock",
                "clock",
                "clock",
            ),
            (
                "x509: certificate is valid for localhost, not r.lan",
                "name",
                "name",
                "name",
            ),
            (
                "remote error: tls: certificate required",
                "client",
                "client",
                "client",
            ),
        ] {
            for (client, expected) in [
                (Client::Own, own),
                (Client::Cri, cri),
                (Client::Docker, docker),
            ] {
                let hint = hint(message, client).unwrap();
                assert!(hint.contains(expected), "{message}: {hint}");
            }
        }
    }

    #[test]
    fn other_failures_have_none() {
        assert_eq!(hint("unsupported protocol scheme", Client::Cri), None);
        let image = ImageRef::parse("r.lan/app:1").unwrap();
        let text = "certificate signed by unknown authority";
        let other = registry_hint(&image, Reason::RegistryError, text, Client::Own);
        assert_eq!(other, None);
    }
}
