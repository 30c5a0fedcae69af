//! Self-issued certificates: kept in a Secret that all replicas share, renewed, and published as the CA bundle.
//!
//! Each certificate is signed by a CA of its own, whose private key exists only while it signs that certificate. No
//! CA key is stored, so nothing that is stored can sign another certificate.

use std::fmt;
use std::time::{Duration, SystemTime};

use fledged_core::backoff::Schedule;
use fledged_kube::request_error::problem;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::certificate::{Certificate, CertificateError, Served, not_after};
use fledged_core::time::after;

const DAY: Duration = Duration::from_secs(86_400);
/// Validity of a certificate and of its CA.
const VALIDITY: Duration = Duration::from_secs(365 * 86_400);
/// Remaining validity at which a certificate is renewed. It leaves time to notice failing renewals.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);
/// Interval between checks: another replica may have renewed the certificate, or the configuration may
/// have been applied again.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Intervals after consecutive failures: short at first, then longer, because a person has to act.
const RETRY_INTERVALS: Schedule = Schedule::seconds(5, 60);
/// Write conflicts with other replicas that are tolerated in one check.
const ATTEMPTS: usize = 5;
/// Field manager of the webhook's writes to the configuration and the Secret.
const FIELD_MANAGER: &str = "fledged-webhook";
/// Key of the Secret's data in which earlier builds stored the private key of the CA.
const AUTHORITY_KEY: &str = "ca.key";

/// Certificates that the webhook issues for itself.
///
/// A certificate valid for one year is stored in a Secret that all replicas share, with its key and the certificate
/// of its CA. The private key of the CA is discarded as soon as it has signed the certificate. Thirty days before the
/// end, one replica replaces both. If a ValidatingWebhookConfiguration is named, its CA bundle holds the newest CA
/// certificate and the previous one; a renewed certificate is served only after the bundle has its CA.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelfIssued {
    /// Namespace of the Service and of the Secret.
    pub namespace: String,
    /// Name of the Service in front of the webhook.
    pub service: String,
    /// Name of the Secret. Default: the Service's name and `-tls`.
    pub secret: String,
    /// Name of the ValidatingWebhookConfiguration whose CA bundle is maintained. Default: none.
    pub configuration: Option<String>,
    /// Further DNS names, for example `localhost`. Default none.
    pub names: Vec<String>,
}

impl SelfIssued {
    /// Certificates for the webhook behind this Service.
    #[must_use]
    pub fn new(namespace: impl Into<String>, service: impl Into<String>) -> Self {
        let service = service.into();
        Self {
            namespace: namespace.into(),
            secret: format!("{service}-tls"),
            service,
            configuration: None,
            names: Vec::new(),
        }
    }

    fn dns_names(&self) -> Vec<String> {
        let (service, namespace) = (&self.service, &self.namespace);
        let of_service = [
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}"),
            service.clone(),
            format!("{service}.{namespace}.svc.cluster.local"),
        ];
        of_service.into_iter().chain(self.names.clone()).collect()
    }

    /// Keeps a valid certificate served. Never returns.
    pub(crate) async fn keep(&self, client: &Client, served: &Served) {
        let mut last = None;
        let mut failures: u32 = 0;
        loop {
            let result = self.check(client, served, &mut last).await;
            let again = match &result {
                Ok(()) => {
                    failures = 0;
                    CHECK_INTERVAL
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    warn!(%error, failures, "certificate check failed");
                    RETRY_INTERVALS.delay(failures)
                }
            };
            served.checked(result);
            served.clock.sleep(again).await;
        }
    }

    /// Runs one check. `last` holds the certificate of the last one.
    async fn check(
        &self,
        client: &Client,
        served: &Served,
        last: &mut Option<Issued>,
    ) -> Result<(), CertificateError> {
        let now = served.clock.now();
        let issued = match self.stored(client, now, last.as_ref()).await {
            Ok(issued) => issued,
            Err(error) => {
                // The served certificate must stay trusted even if the Secret is unusable.
                if let Some(last) = last {
                    self.publish(client, last).await?;
                }
                return Err(error);
            }
        };
        let certificate = issued.certificate()?;
        let settled = last.as_ref() == Some(&issued);
        let changed = self.publish(client, last.insert(issued)).await;
        // The API servers receive a changed bundle with a delay. A renewed certificate is therefore served from the
        // first check on that finds the bundle complete.
        if !served.is_valid() || (settled && matches!(changed, Ok(false))) {
            served.set(certificate);
        }
        changed.map(drop)
    }

    /// The stored certificate, renewed if due. If it was removed from the Secret, `last` is written back.
    async fn stored(
        &self,
        client: &Client,
        now: Timestamp,
        last: Option<&Issued>,
    ) -> Result<Issued, CertificateError> {
        let api: Api<Secret> = Api::namespaced(client.clone(), &self.namespace);
        let name = || format!("{}/{}", self.namespace, self.secret);
        let failed = |verb, error| CertificateError::Secret {
            verb,
            secret: name(),
            problem: problem(&error),
        };
        let names = self.dns_names();
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        for _ in 0..ATTEMPTS {
            let found = api.get_opt(&self.secret).await;
            let found = found.map_err(|error| failed("get", error))?;
            let stored = found.as_ref().and_then(Issued::read);
            let mut known = stored.iter().chain(last);
            let next = match known.find(|known| known.is_valid_at(after(now, RENEW_BEFORE), &names))
            {
                Some(known) => known.clone(),
                None => Issued::new(last.or(stored.as_ref()), &names, now)?,
            };
            let missing = found.is_none();
            let mut secret = found.unwrap_or_default();
            let data = secret.data.get_or_insert_default();
            if stored.as_ref() == Some(&next) && !data.contains_key(AUTHORITY_KEY) {
                return Ok(next);
            }
            data.remove(AUTHORITY_KEY);
            data.extend(next.data());
            secret.metadata.name = Some(self.secret.clone());
            // The resourceVersion that was read makes a concurrent write fail with a conflict.
            let written = if missing {
                api.create(&params, &secret).await
            } else {
                api.replace(&self.secret, &params, &secret).await
            };
            match written {
                Ok(_) => {
                    info!(secret = self.secret, "webhook certificate written");
                    return Ok(next);
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) if missing => {
                    return Err(CertificateError::Gone {
                        secret: name(),
                        problem: problem(&error),
                    });
                }
                Err(error) => return Err(failed("write", error)),
            }
        }
        Err(CertificateError::Overtaken(name()))
    }

    /// Adds the CA to the bundle of the configuration, if one is named. Returns whether the bundle changed.
    ///
    /// The webhook then drops its ownership of the field. Otherwise a server-side apply of the configuration with a
    /// bundle in it, such as a helm rollback to kube-fledged's chart, would conflict; an overwritten bundle is
    /// restored by the next check.
    async fn publish(&self, client: &Client, issued: &Issued) -> Result<bool, CertificateError> {
        let Some(name) = &self.configuration else {
            return Ok(false);
        };
        let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
        let change = async {
            let mut found = api.get(name).await?;
            let operations = bundle_operations(&found, &issued.bundle);
            let changed = !operations.is_empty();
            if changed {
                found = patch(&api, &found, operations).await?;
                info!(configuration = name, "webhook CA bundle updated");
            }
            let operations = ownership_operations(&found);
            if !operations.is_empty() {
                patch(&api, &found, operations).await?;
            }
            Ok(changed)
        };
        change
            .await
            .map_err(|error| CertificateError::Configuration {
                name: name.clone(),
                problem: problem(&error),
            })
    }
}

/// Applies JSON patch operations, unless the configuration has changed since it was read.
async fn patch(
    api: &Api<ValidatingWebhookConfiguration>,
    found: &ValidatingWebhookConfiguration,
    mut operations: Vec<Value>,
) -> kube::Result<ValidatingWebhookConfiguration> {
    let version = &found.metadata.resource_version;
    let unchanged = json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version });
    operations.insert(0, unchanged);
    let operations = serde_json::from_value(operations.into()).map_err(kube::Error::SerdeError)?;
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let name = found.metadata.name.as_deref().unwrap_or_default();
    api.patch(name, &params, &Patch::<Value>::Json(operations))
        .await
}

/// The operations that set the bundle in the webhooks whose bundle lacks its newest CA certificate. Newer ones, which
/// another replica may have added, stay.
fn bundle_operations(found: &ValidatingWebhookConfiguration, bundle: &str) -> Vec<Value> {
    let newest = CertificateDer::from_pem_slice(bundle.as_bytes());
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let webhooks = found.webhooks.iter().flatten().enumerate();
    let stale = webhooks.filter(|(_, webhook)| {
        let there = webhook.client_config.ca_bundle.as_ref();
        let there = there.map_or(&[][..], |there| &there.0);
        let mut there = CertificateDer::pem_slice_iter(there).flatten();
        !newest
            .as_ref()
            .is_ok_and(|newest| there.any(|found| found == *newest))
    });
    stale
        .map(|(number, _)| {
            let path = format!("/webhooks/{number}/clientConfig/caBundle");
            json!({ "op": "add", "path": path, "value": wanted })
        })
        .collect()
}

/// The operations that remove the webhook's entries from `managedFields`, from the end, so that the remaining indexes
/// stay valid.
fn ownership_operations(found: &ValidatingWebhookConfiguration) -> Vec<Value> {
    let entries = found.metadata.managed_fields.iter().flatten().enumerate();
    let own = entries.filter(|(_, entry)| entry.manager.as_deref() == Some(FIELD_MANAGER));
    let remove = |(number, _)| json!({ "op": "remove", "path": format!("/metadata/managedFields/{number}") });
    let mut operations: Vec<Value> = own.map(remove).collect();
    operations.reverse();
    operations
}

/// A certificate with its key and its CA, as stored: all in PEM.
#[derive(Clone, PartialEq, Eq)]
struct Issued {
    /// Trusted CA certificates: the one that signed the certificate, then the previous one.
    bundle: String,
    certificate: String,
    key: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").finish_non_exhaustive()
    }
}

impl Issued {
    /// A new certificate for these DNS names, signed by a new CA whose key is discarded. The bundle also holds the
    /// newest CA of `previous` unless it has expired: replicas still serve a certificate that it signed.
    fn new(
        previous: Option<&Self>,
        names: &[String],
        now: Timestamp,
    ) -> Result<Self, CertificateError> {
        if let Some(invalid) = names
            .iter()
            .find(|name| ServerName::try_from(name.as_str()).is_err())
        {
            return Err(CertificateError::Name(invalid.clone()));
        }
        let params = |names: &[String], common_name: &str| -> Result<_, rcgen::Error> {
            let mut params = CertificateParams::new(names)?;
            params
                .distinguished_name
                .push(DnType::CommonName, common_name);
            // From yesterday, so that a client with a slow clock accepts it.
            let yesterday = now.checked_sub(DAY).unwrap_or(now);
            params.not_before = SystemTime::from(yesterday).into();
            params.not_after = SystemTime::from(after(now, VALIDITY)).into();
            params.use_authority_key_identifier_extension = true;
            Ok(params)
        };
        let mut authority = params(&[], "fledged webhook authority")?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let mut server = params(names, "fledged webhook")?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &authority)?;
        let previous = previous.and_then(|previous| previous.unexpired_authority(now));
        Ok(Self {
            bundle: authority.pem() + &previous.unwrap_or_default(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// The newest CA certificate in PEM, unless it has expired.
    fn unexpired_authority(&self, now: Timestamp) -> Option<String> {
        let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
        let begin = self.bundle.find(begin)?;
        let end = self.bundle.find(end)? + end.len();
        let newest = self.bundle.get(begin..end)?;
        let der = CertificateDer::from_pem_slice(newest.as_bytes()).ok()?;
        (not_after(&der).ok()? > now).then(|| format!("{newest}\n"))
    }

    fn certificate(&self) -> Result<Certificate, CertificateError> {
        Certificate::from_pem(self.certificate.as_bytes(), self.key.as_bytes())
    }

    /// Whether a client that trusts the newest CA certificate accepts the certificate under all names at that time.
    fn is_valid_at(&self, at: Timestamp, names: &[String]) -> bool {
        let verify = || {
            let key = self.certificate().ok()?.key;
            let certificate = ParsedCertificate::try_from(key.cert.first()?).ok()?;
            let mut roots = RootCertStore::empty();
            let authority = CertificateDer::from_pem_slice(self.bundle.as_bytes());
            roots.add(authority.ok()?).ok()?;
            let at = UnixTime::since_unix_epoch(Duration::try_from(at.as_duration()).ok()?);
            let algorithms = rustls::crypto::ring::default_provider();
            let algorithms = algorithms.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, &roots, &[], at, algorithms)
                .ok()?;
            names.iter().try_for_each(|name| {
                let name = ServerName::try_from(name.as_str()).ok()?;
                verify_server_name(&certificate, &name).ok()
            })
        };
        verify().is_some()
    }

    fn read(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        Some(Self {
            bundle: text("ca.crt")?,
            certificate: text("tls.crt")?,
            key: text("tls.key")?,
        })
    }

    fn data(&self) -> [(String, ByteString); 3] {
        [
            ("ca.crt", &self.bundle),
            ("tls.crt", &self.certificate),
            ("tls.key", &self.key),
        ]
        .map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fledged_apiserver::{Failure, RequestFilter, Server, Service};
    use fledged_core::port::Clock as _;
    use fledged_core::sim::SimClock;

    use super::*;
    use crate::webhook_metrics::WebhookMetrics;

    fn names() -> Vec<String> {
        vec!["web.ns.svc".to_owned(), "localhost".to_owned()]
    }

    fn at(days: u32) -> Timestamp {
        after("2026-01-01T12:00:00Z".parse().unwrap(), days * DAY)
    }

    fn mk_issued(days: u32) -> Issued {
        Issued::new(None, &names(), at(days)).unwrap()
    }

    fn certificates(bundle: &str) -> usize {
        bundle.matches("BEGIN CERTIFICATE").count()
    }

    #[test]
    fn certificate_is_valid_for_a_year_under_its_names() {
        let issued = mk_issued(0);
        assert_eq!(certificates(&issued.bundle), 1);
        for (day, valid) in [(0, true), (364, true), (366, false)] {
            assert_eq!(issued.is_valid_at(at(day), &names()), valid, "{day}");
        }
        assert!(!issued.is_valid_at(at(0), &["api.ns.svc".to_owned()]));
        let error = Issued::new(None, &["no name".to_owned()], at(0)).unwrap_err();
        assert!(error.to_string().contains("\"no name\""), "{error}");
    }

    #[test]
    fn bundle_keeps_the_previous_authority_until_it_expires() {
        let first = mk_issued(0);
        let renew = |previous, day| Issued::new(Some(previous), &names(), at(day)).unwrap();
        let second = renew(&first, 335);
        assert_eq!(certificates(&second.bundle), 2);
        assert!(second.bundle.ends_with(&first.bundle));
        let third = renew(&second, 670);
        assert_eq!(certificates(&third.bundle), 2);
        assert!(!third.bundle.contains(&first.bundle));
        assert_eq!(certificates(&renew(&first, 400).bundle), 1);
    }

    #[test]
    fn invalid_content_is_not_valid() {
        let (issued, other) = (mk_issued(0), mk_issued(0));
        let spoil = |change: fn(&mut Issued, &Issued)| {
            let mut spoilt = issued.clone();
            change(&mut spoilt, &other);
            spoilt
        };
        for spoilt in [
            spoil(|spoilt, _| spoilt.bundle = "x".to_owned()),
            spoil(|spoilt, _| spoilt.certificate = String::new()),
            spoil(|spoilt, other| spoilt.key = other.key.clone()),
            spoil(|spoilt, other| spoilt.bundle = other.bundle.clone()),
        ] {
            assert!(!spoilt.is_valid_at(at(0), &names()));
        }
        assert!(!format!("{issued:?}").contains("KEY"));
    }

    /// An API server with a configuration, and the clock of all replicas.
    struct Cluster {
        service: Service,
        clock: SimClock,
        issued: SelfIssued,
    }

    /// A replica of the webhook, as far as it is about certificates.
    struct Replica {
        client: Client,
        issued: SelfIssued,
        served: Served,
        last: Option<Issued>,
    }

    impl Cluster {
        async fn start() -> Self {
            let service = Server::builder().service().unwrap();
            let mut issued = SelfIssued::new("default", "web");
            issued.configuration = Some("ours".to_owned());
            let configurations: Api<ValidatingWebhookConfiguration> = Api::all(service.client());
            let configuration = mk_configuration(&[None]);
            let params = PostParams::default();
            configurations
                .create(&params, &configuration)
                .await
                .unwrap();
            let clock = SimClock::new();
            Self {
                service,
                clock,
                issued,
            }
        }

        fn replica(&self) -> Replica {
            let clock = Arc::new(self.clock.clone());
            Replica {
                client: self.service.client(),
                issued: self.issued.clone(),
                served: Served::new(clock, WebhookMetrics::default()),
                last: None,
            }
        }

        fn pass(&self, days: u32) {
            self.clock.block_on(self.clock.sleep(days * DAY)).unwrap();
        }

        async fn secret(&self) -> Secret {
            let api: Api<Secret> = Api::default_namespaced(self.service.client());
            api.get("web-tls").await.unwrap()
        }

        /// The certificate in the Secret, which holds nothing else.
        async fn stored(&self) -> Issued {
            let secret = self.secret().await;
            let keys: Vec<&String> = secret.data.iter().flatten().map(|(key, _)| key).collect();
            assert_eq!(keys, ["ca.crt", "tls.crt", "tls.key"]);
            let issued = Issued::read(&secret).unwrap();
            // The one private key is that of the certificate, which is no CA.
            let key = issued.certificate().unwrap().key;
            let (_, leaf) = x509_parser::parse_x509_certificate(&key.cert[0]).unwrap();
            assert!(!leaf.is_ca());
            issued
        }

        async fn bundle(&self) -> String {
            let api: Api<ValidatingWebhookConfiguration> = Api::all(self.service.client());
            let mut found = api.get("ours").await.unwrap();
            let bundle = found
                .webhooks
                .as_mut()
                .unwrap()
                .remove(0)
                .client_config
                .ca_bundle;
            String::from_utf8(bundle.unwrap_or_default().0).unwrap()
        }

        fn fail_patches(&self, count: usize) {
            let filter = RequestFilter {
                verb: Some("patch".to_owned()),
                ..RequestFilter::default()
            };
            self.service
                .fail_next(count, filter, Failure::forbidden("not now"));
        }
    }

    impl Replica {
        async fn check(&mut self) -> Result<(), CertificateError> {
            self.issued
                .check(&self.client, &self.served, &mut self.last)
                .await
        }

        fn serves(&self, issued: &Issued) -> bool {
            let expected = issued.certificate().unwrap().key;
            self.served
                .certificate()
                .is_some_and(|key| key.cert == expected.cert)
        }
    }

    #[tokio::test]
    async fn renewed_certificate_is_served_after_its_authority() {
        let cluster = Cluster::start().await;
        let (mut one, mut two) = (cluster.replica(), cluster.replica());
        one.check().await.unwrap();
        two.check().await.unwrap();
        let first = cluster.stored().await;
        assert!(one.serves(&first) && two.serves(&first));
        assert_eq!(cluster.bundle().await, first.bundle);
        cluster.pass(334);
        one.check().await.unwrap();
        assert_eq!(cluster.stored().await, first);

        cluster.pass(2);
        cluster.fail_patches(1);
        one.check().await.unwrap_err();
        let second = cluster.stored().await;
        assert_ne!(second, first);
        assert_eq!(cluster.bundle().await, first.bundle);
        assert!(one.serves(&first));
        // The bundle holds both authorities while either certificate is served.
        one.check().await.unwrap();
        assert_eq!(cluster.bundle().await, second.bundle);
        assert!(second.bundle.ends_with(&first.bundle));
        assert!(one.serves(&first));
        two.check().await.unwrap();
        assert!(two.serves(&first));
        for replica in [&mut one, &mut two] {
            replica.check().await.unwrap();
            assert!(replica.serves(&second));
        }
        assert_eq!(cluster.stored().await, second);
    }

    #[tokio::test]
    async fn racing_replicas_end_with_one_certificate() {
        let cluster = Cluster::start().await;
        let (mut one, mut two) = (cluster.replica(), cluster.replica());
        for (days, verb) in [(0, "create"), (336, "update")] {
            cluster.pass(days);
            cluster.service.reset_requests();
            let (first, second) = tokio::join!(one.check(), two.check());
            // A conflict in the configuration is resolved by the next check.
            drop((first, second));
            let writes = cluster
                .service
                .count(|key| key.resource == "secrets" && key.verb == verb);
            assert_eq!(writes, 2, "no race: {:?}", cluster.service.requests());
            let stored = cluster.stored().await;
            for _ in 0..2 {
                one.check().await.unwrap();
                two.check().await.unwrap();
            }
            assert_eq!(cluster.stored().await, stored);
            assert!(one.serves(&stored) && two.serves(&stored));
            assert_eq!(cluster.bundle().await, stored.bundle);
        }
    }

    #[tokio::test]
    async fn authority_key_of_an_earlier_build_is_removed() {
        let cluster = Cluster::start().await;
        let old = Issued::new(None, &cluster.issued.dns_names(), cluster.clock.now()).unwrap();
        let mut secret = Secret::default();
        secret.metadata.name = Some("web-tls".to_owned());
        let authority_key = KeyPair::generate().unwrap().serialize_pem().into_bytes();
        let data = secret.data.get_or_insert_default();
        data.extend(old.data());
        data.insert(AUTHORITY_KEY.to_owned(), ByteString(authority_key));
        let api: Api<Secret> = Api::default_namespaced(cluster.service.client());
        api.create(&PostParams::default(), &secret).await.unwrap();

        let mut replica = cluster.replica();
        replica.check().await.unwrap();
        assert_eq!(cluster.stored().await, old);
        assert!(replica.serves(&old));
        // A replica of the earlier build writes it back.
        secret.metadata.resource_version = cluster.secret().await.metadata.resource_version;
        api.replace("web-tls", &PostParams::default(), &secret)
            .await
            .unwrap();
        replica.check().await.unwrap();
        assert_eq!(cluster.stored().await, old);
    }

    #[tokio::test]
    async fn lost_or_invalid_secret_is_written_again() {
        let cluster = Cluster::start().await;
        let mut replica = cluster.replica();
        replica.check().await.unwrap();
        let stored = cluster.stored().await;
        let api: Api<Secret> = Api::default_namespaced(cluster.service.client());
        api.delete("web-tls", &Default::default()).await.unwrap();
        replica.check().await.unwrap();
        assert_eq!(cluster.stored().await, stored);
        let mut secret = cluster.secret().await;
        secret
            .data
            .as_mut()
            .unwrap()
            .insert("tls.key".to_owned(), ByteString(b"x".to_vec()));
        api.replace("web-tls", &PostParams::default(), &secret)
            .await
            .unwrap();
        replica.check().await.unwrap();
        assert_eq!(cluster.stored().await, stored);
    }

    fn mk_configuration(bundles: &[Option<&str>]) -> ValidatingWebhookConfiguration {
        let webhooks: Vec<Value> = bundles
            .iter()
            .enumerate()
            .map(|(number, bundle)| {
                let bundle = bundle.map(|bundle| json!(ByteString(bundle.as_bytes().to_vec())));
                json!({ "name": format!("w{number}.kubefledged.io"), "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "clientConfig": { "url": "https://localhost:1/", "caBundle": bundle } })
            })
            .collect();
        serde_json::from_value(json!({ "metadata": { "name": "ours" }, "webhooks": webhooks }))
            .unwrap()
    }

    #[test]
    fn bundle_is_set_where_it_lacks_the_newest_authority() {
        let first = mk_issued(0);
        let second = Issued::new(Some(&first), &names(), at(335)).unwrap();
        let bundles = [&second.bundle, &first.bundle, "other"].map(Some);
        let found = mk_configuration(&[&bundles[..], &[None]].concat());
        let value = json!(ByteString(second.bundle.clone().into_bytes()));
        assert_eq!(
            bundle_operations(&found, &second.bundle),
            [1, 2, 3].map(|number| {
                let path = format!("/webhooks/{number}/clientConfig/caBundle");
                json!({ "op": "add", "path": path, "value": value })
            })
        );
        // A newer bundle, by another replica, stays.
        assert!(bundle_operations(&mk_configuration(&bundles[..1]), &first.bundle).is_empty());
    }

    #[test]
    fn own_entries_of_managed_fields_are_removed_from_the_end() {
        let mut found = mk_configuration(&[None]);
        assert!(ownership_operations(&found).is_empty());
        let managers = ["helm", FIELD_MANAGER, "kubectl", FIELD_MANAGER];
        let entries = managers.map(|manager| json!({ "manager": manager, "operation": "Update" }));
        found.metadata.managed_fields = Some(serde_json::from_value(json!(entries)).unwrap());
        let paths: Vec<Value> = ownership_operations(&found)
            .iter()
            .map(|operation| operation["path"].clone())
            .collect();
        assert_eq!(
            paths,
            ["/metadata/managedFields/3", "/metadata/managedFields/1"]
        );
    }
}
