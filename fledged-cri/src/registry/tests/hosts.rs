//! Certificates, schemes, and the hosts of `hosts.toml`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fledged_core::error::{Failure, Reason};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::super::fake::unit::{password, probe};
use super::super::fake::{Answer, Asked, Fake, image};
use super::super::{RegistryAuthority, RegistryOptions};

/// `localhost` is a name of this machine that no test server's certificate has by default.
const NAMES: [&str; 2] = ["127.0.0.1", "r.lan"];

struct Identity {
    pem: String,
    acceptor: TlsAcceptor,
    key: String,
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    CertificateParams::new(names).unwrap()
}

fn authority(names: &[&str]) -> CertificateParams {
    let mut params = params(names);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn acceptor(chain: Vec<rcgen::Certificate>, key: &KeyPair) -> TlsAcceptor {
    let chain = chain.into_iter().map(|c| c.der().clone()).collect();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A certificate that its own key signs.
fn self_signed(params: CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Identity {
        pem: certificate.pem(),
        acceptor: acceptor(vec![certificate], &key),
        key: key.serialize_pem(),
    }
}

/// A certificate that an authority signs, and the authority's own.
fn signed(leaf: CertificateParams) -> Identity {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let ca = authority(&[]);
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    Identity {
        pem,
        acceptor: acceptor(vec![certificate], &key),
        key: key.serialize_pem(),
    }
}

async fn serve(identity: &Identity) -> Fake {
    Fake::start_tls(identity.acceptor.clone(), |asked, _| image(asked)).await
}

/// A folder for one registry, with files.
struct HostsDir(TempDir);

impl HostsDir {
    fn new(registry: &str, files: &[(&str, &str)]) -> Self {
        let root = TempDir::new().unwrap();
        let folder = root.path().join(registry);
        std::fs::create_dir(&folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        Self(root)
    }

    fn options(&self) -> RegistryOptions {
        RegistryOptions {
            hosts_dirs: vec![self.0.path().to_owned()],
            ..RegistryOptions::default()
        }
    }
}

/// Options that verify the server at `addr`, although it is on the loopback interface.
fn trusting(addr: &str, file: &Path) -> RegistryOptions {
    RegistryOptions {
        authorities: vec![RegistryAuthority {
            registry: Some(addr.to_owned()),
            file: file.to_owned(),
        }],
        ..RegistryOptions::default()
    }
}

/// Probes the server with `pem` as the only authority.
async fn verified(server: &Fake, pem: &str) -> Result<(), Failure> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let options = trusting(&server.addr, file.path());
    probe(options, &server.addr, None).await.map(drop)
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let identity = signed(params(&NAMES));
    let server = serve(&identity).await;
    verified(&server, &identity.pem).await.unwrap();
    let other = signed(params(&NAMES));
    let failure = verified(&server, &other.pem).await.unwrap_err();
    assert_eq!(failure.reason, Reason::RegistryMisconfigured);
    assert!(
        failure.message.contains("signed by an unknown authority"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_trusted_authority_may_be_the_server_itself() {
    let identity = self_signed(authority(&NAMES));
    let server = serve(&identity).await;
    verified(&server, &identity.pem).await.unwrap();
    // Exactly this certificate has to be trusted.
    let same_names = self_signed(authority(&NAMES));
    let failure = verified(&server, &same_names.pem).await.unwrap_err();
    assert!(failure.message.contains("unknown authority"), "{failure}");
    let leaf = self_signed(params(&NAMES));
    verified(&serve(&leaf).await, &leaf.pem).await.unwrap();
}

#[tokio::test]
async fn a_trusted_certificate_has_to_be_valid_for_name_and_time() {
    for (is_authority, expired) in [(true, false), (true, true), (false, false), (false, true)] {
        let names: &[&str] = if expired { &NAMES } else { &["other.lan"] };
        let mut params = match is_authority {
            true => authority(names),
            false => params(names),
        };
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let identity = match is_authority {
            true => self_signed(params),
            false => signed(params),
        };
        let server = serve(&identity).await;
        let failure = verified(&server, &identity.pem).await.unwrap_err();
        assert_eq!(failure.reason, Reason::RegistryMisconfigured, "{failure}");
        let expected = match expired {
            true => "its certificate has expired on 2021-01-01",
            false => "its certificate is valid for other.lan, not for 127.0.0.1",
        };
        assert!(failure.message.contains(expected), "{failure}");
    }
}

#[tokio::test]
async fn a_loopback_registry_may_speak_https() {
    let server = serve(&self_signed(params(&["localhost"]))).await;
    server.probe(None).await.unwrap();
    let asked = server.asked().len();
    server.probe(password("secret")).await.unwrap();
    assert_eq!(server.asked().len(), 2 * asked);
}

#[tokio::test]
async fn a_plain_http_registry_is_told_as_such() {
    let server = Fake::start(|asked, _| image(asked)).await;
    let toml = format!("server = \"https://{}\"", server.addr);
    let dir = HostsDir::new("r.lan", &[("hosts.toml", &toml)]);
    let failure = probe(dir.options(), "r.lan", None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::RegistryMisconfigured);
    assert!(
        failure.message.contains("it speaks plain HTTP"),
        "{failure}"
    );
    assert!(server.asked().is_empty());

    // Docker's meaning of insecure: unverified HTTPS, else plain HTTP.
    let mut options = dir.options();
    options.insecure = vec![server.addr.clone()];
    probe(options, "r.lan", None).await.unwrap();
    let mut options = dir.options();
    options.plain_http = vec![server.addr.clone()];
    probe(options, "r.lan", None).await.unwrap();
}

#[tokio::test]
async fn an_insecure_registry_is_not_verified() {
    let server = serve(&self_signed(params(&["other.lan"]))).await;
    let toml = format!("server = \"https://{}\"", server.addr);
    let dir = HostsDir::new("r.lan", &[("hosts.toml", &toml)]);
    let failure = probe(dir.options(), "r.lan", None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::RegistryMisconfigured);
    let mut options = dir.options();
    options.insecure = vec![server.addr.clone()];
    probe(options, "r.lan", None).await.unwrap();
    // Plain HTTP only: the server expects TLS.
    let mut options = dir.options();
    options.plain_http = vec![server.addr.clone()];
    let failure = probe(options, "r.lan", None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::RegistryMisconfigured, "{failure}");
    let skip = format!("{toml}\nskip_verify = true");
    let dir = HostsDir::new("r.lan", &[("hosts.toml", &skip)]);
    probe(dir.options(), "r.lan", None).await.unwrap();
}

#[tokio::test]
async fn certificate_files_are_those_of_containerd() {
    let identity = signed(params(&NAMES));
    let server = serve(&identity).await;
    let toml = format!("server = \"https://{}\"\nca = \"own/ca.pem\"", server.addr);
    let dir = HostsDir::new("r.lan", &[("hosts.toml", &toml)]);
    let failure = probe(dir.options(), "r.lan", None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::RegistryMisconfigured);
    assert!(failure.message.contains("r.lan/own/ca.pem"), "{failure}");
    let folder = dir.0.path().join("r.lan/own");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("ca.pem"), "not PEM").unwrap();
    let failure = probe(dir.options(), "r.lan", None).await.unwrap_err();
    assert!(failure.message.contains("no certificate"), "{failure}");
    std::fs::write(folder.join("ca.pem"), &identity.pem).unwrap();
    probe(dir.options(), "r.lan", None).await.unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_presented() {
    let server = self_signed(params(&NAMES));
    let client = self_signed(params(&["client"]));
    let mut roots = RootCertStore::empty();
    let der = pem_of(&client.pem);
    roots.add(der).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![pem_of(&server.pem)],
            rustls::pki_types::pem::PemObject::from_pem_slice(server.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let fake = Fake::start_tls(acceptor, |asked, _| image(asked)).await;
    let toml = format!("server = \"https://{}\"\nca = \"ca.pem\"\n", fake.addr);
    let with_client = format!("{toml}client = [[\"c.pem\", \"k.pem\"]]");
    for (toml, reason) in [
        (toml, Some(Reason::RegistryMisconfigured)),
        (with_client, None),
    ] {
        let dir = HostsDir::new(
            "r.lan",
            &[
                ("hosts.toml", &toml),
                ("ca.pem", &server.pem),
                ("c.pem", &client.pem),
                ("k.pem", &client.key),
            ],
        );
        let found = probe(dir.options(), "r.lan", None).await;
        assert_eq!(found.as_ref().err().map(|f| f.reason), reason, "{found:?}");
    }
}

fn pem_of(pem: &str) -> rustls::pki_types::CertificateDer<'static> {
    rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap()
}

fn is_tagged(asked: &Asked) -> bool {
    asked.target.contains("/manifests/1")
}

#[tokio::test]
async fn mirrors_are_asked_in_order_then_the_registry() {
    let broken = Fake::start(|_, _| Answer::new(503, "")).await;
    let empty = Fake::start(|_, _| Answer::new(404, "")).await;
    let blobs = Fake::start(|asked, _| image(asked)).await;
    let own = Fake::start(|asked, _| match asked.target.contains("/blobs/") {
        true => Answer::new(404, ""),
        false => image(asked),
    })
    .await;
    let toml = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\n\
         [host.\"http://{}\"]\ncapabilities = [\"pull\"]\n\
         header = {{ x-mirror = \"yes\" }}\n",
        own.addr, broken.addr, empty.addr, blobs.addr
    );
    let dir = HostsDir::new("r.lan_5000_", &[("hosts.toml", &toml)]);
    probe(dir.options(), "r.lan:5000", None).await.unwrap();
    for mirror in [&broken, &empty] {
        assert!(is_tagged(&mirror.asked()[0]));
        assert!(
            mirror
                .asked()
                .iter()
                .all(|a| a.target.ends_with("?ns=r.lan%3A5000"))
        );
    }
    assert!(own.asked().iter().any(is_tagged));
    // Only tags need the capability "resolve".
    assert!(!blobs.asked().iter().any(is_tagged));
    assert!(
        blobs
            .asked()
            .iter()
            .all(|a| a.header("x-mirror") == Some("yes"))
    );
    assert!(!own.asked().iter().any(|a| a.header("x-mirror").is_some()));
}

#[tokio::test]
async fn the_token_server_gets_the_headers_of_its_registry() {
    let own = Fake::start(|asked, addr| {
        if asked.is("GET", "/token") {
            return Answer::new(200, r#"{"token":"t0ken"}"#);
        }
        if asked.authorization() == Some("Bearer t0ken") {
            return image(asked);
        }
        Answer::challenge(format!(r#"Bearer realm="http://{addr}/token""#))
    })
    .await;
    let toml = format!(
        "server = \"http://{}\"\n[header]\nx-team = \"a\"\nauthorization = \"Basic bWU6\"\n",
        own.addr
    );
    let dir = HostsDir::new("r.lan_5000_", &[("hosts.toml", &toml)]);
    probe(dir.options(), "r.lan:5000", None).await.unwrap();
    let asked = own.asked();
    assert!(
        asked.iter().all(|a| a.header("x-team") == Some("a")),
        "{asked:?}"
    );
    let tokens: Vec<_> = asked.iter().filter(|a| a.is("GET", "/token")).collect();
    assert_eq!(tokens.len(), 1, "{asked:?}");
    assert_eq!(tokens[0].authorization(), Some("Basic bWU6"));
    // The token replaces the header of the file.
    assert_eq!(asked.last().unwrap().authorization(), Some("Bearer t0ken"));
}

#[tokio::test]
async fn the_most_relevant_failure_of_all_hosts_is_reported() {
    for (first, second, expected) in [
        (404, 403, Reason::Unauthorized),
        (503, 404, Reason::RegistryError),
        (404, 404, Reason::ImageNotFound),
    ] {
        let mirror = Fake::start(move |_, _| Answer::new(first, "")).await;
        let own = Fake::start(move |_, _| Answer::new(second, "")).await;
        let toml = format!(
            "server = \"http://{}\"\n[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}\"]\n",
            own.addr, mirror.addr
        );
        let dir = HostsDir::new("_default", &[("hosts.toml", &toml)]);
        let failure = probe(dir.options(), "r.lan", None).await.unwrap_err();
        assert_eq!(failure.reason, expected, "{failure}");
    }
    let toml = "[host.\"http://127.0.0.1:1\"]\n".to_owned()
        + "server = \"x\"\n[host.\"http://127.0.0.1:2\"]\ncapabilities = [\"push\"]";
    let dir = HostsDir::new("r.lan", &[("hosts.toml", &toml)]);
    let failure = probe(dir.options(), "r.lan", None).await.unwrap_err();
    assert_ne!(failure.reason, Reason::ImageNotFound, "{failure}");
}

#[tokio::test]
async fn failures_name_a_mirror_and_its_registry() {
    let refusing = Fake::start(|_, _| Answer::new(403, "")).await;
    for (addr, expected) in [
        (
            "127.0.0.1:1",
            "cannot reach the mirror 127.0.0.1:1 of r.lan: ",
        ),
        (
            &*refusing.addr,
            &*format!(
                "the mirror {} of r.lan refuses the manifest: 403",
                refusing.addr
            ),
        ),
    ] {
        let toml = format!("server = \"\"\n[host.\"http://{addr}\"]\n");
        let dir = HostsDir::new("r.lan", &[("hosts.toml", &toml)]);
        let failure = probe(dir.options(), "r.lan", None).await.unwrap_err();
        assert!(failure.message.starts_with(expected), "{failure}");
    }
}

#[tokio::test]
async fn without_a_host_that_resolves_nothing_is_pulled() {
    let toml = "server = \"http://127.0.0.1:1\"\ncapabilities = [\"pull\"]";
    let dir = HostsDir::new("r.lan", &[("hosts.toml", toml)]);
    let failure = probe(dir.options(), "r.lan", None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::RegistryMisconfigured);
    assert!(
        failure.message.contains("capability \"resolve\""),
        "{failure}"
    );
}

#[tokio::test]
async fn mirrors_have_their_own_paths() {
    let mirror = Fake::start(|asked, _| image(asked)).await;
    let toml = format!(
        "[host.\"http://{}/proxy/docker\"]\n[host.\"http://{}/api/\"]\noverride_path = true",
        mirror.addr, mirror.addr
    );
    let dir = HostsDir::new("docker.io", &[("hosts.toml", &toml)]);
    let mut options = dir.options();
    options
        .hosts_dirs
        .insert(0, PathBuf::from("/does/not/exist"));
    probe(options, "docker.io", None).await.unwrap();
    let first = &mirror.asked()[0].target;
    assert_eq!(first, "/proxy/docker/v2/team/app/manifests/1?ns=docker.io");
}

#[tokio::test]
async fn credentials_follow_an_upgrade_to_https_on_the_same_host() {
    let identity = self_signed(params(&NAMES));
    let secure = Fake::start_tls(identity.acceptor, |asked, _| match asked.authorization() {
        Some(_) => image(asked),
        None => Answer::challenge("Basic realm=\"x\""),
    })
    .await;
    let to = secure.addr.clone();
    let plain = Fake::start(move |asked, _| {
        Answer::new(301, "").with("location", format!("https://{to}{}", asked.target))
    })
    .await;
    plain.probe(password("secret")).await.unwrap();
    assert_eq!(plain.authorizations(), [""; 0]);
}

#[tokio::test]
async fn a_tag_fills_a_cache_that_lacks_the_digest() {
    let (name, digest) = ("team/app", super::super::sha256(manifest().as_bytes()));
    for (tagged, found) in [(manifest(), true), ("{}".to_owned(), false)] {
        let cache = Fake::start(
            move |asked, _| match asked.target.contains("/manifests/sha256") {
                true => Answer::new(404, ""),
                false if asked.target.contains("/manifests/") => Answer::new(200, tagged.clone())
                    .with("content-type", super::super::fake::OCI_MANIFEST),
                false => image(asked),
            },
        )
        .await;
        let registry = super::super::Registry::new(RegistryOptions::default()).unwrap();
        let reference = format!("{}/{name}:1@{digest}", cache.addr).parse().unwrap();
        let platform = super::super::fake::unit::platform();
        let outcome = registry.probe(&reference, None, &platform).await;
        assert_eq!(outcome.is_ok(), found, "{outcome:?}");
        if let Err(failure) = outcome {
            assert_eq!(failure.reason, Reason::ImageNotFound);
            assert!(
                failure.message.contains("the tag 1 is another image"),
                "{failure}"
            );
        }
    }
}

fn manifest() -> String {
    use super::super::fake;
    fake::manifest(fake::OCI_CONFIG, fake::OCI_LAYER).to_string()
}
