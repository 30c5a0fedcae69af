//! Self-issued certificates: kept in a Secret that all replicas share, renewed, and published as the CA bundle.

use std::time::Duration;

use fledged_core::backoff::Schedule;
use fledged_core::port::Clock;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::api::error::problem;
use crate::webhook::authority::{IssueError, Issued, newest, renewed};
use crate::webhook::certificate::{Certificate, CertificateHealth, InvalidCertificate};

/// Interval between checks: another replica may have renewed the certificate, or the configuration may
/// have been applied again.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Intervals after consecutive failures: short at first, then longer, because a person has to act.
const RETRY_INTERVALS: Schedule = Schedule::seconds(5, 60);
/// Write conflicts with other replicas that are tolerated in one check.
const ATTEMPTS: usize = 5;

/// Certificates that the webhook issues for itself.
///
/// A CA certificate valid for one year and a server certificate valid for 90 days are stored in a Secret that
/// all replicas share. Each is renewed when a third of its validity is left. If a
/// ValidatingWebhookConfiguration is named, its CA bundle holds the newest CA certificate and the previous
/// one; the bundle is updated before a certificate is served that only the newest CA signed.
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
    /// Further DNS names. Default none.
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

    /// Maintains the CA bundle of this ValidatingWebhookConfiguration.
    #[must_use]
    pub fn with_configuration(mut self, name: impl Into<String>) -> Self {
        self.configuration = Some(name.into());
        self
    }

    /// Stores the certificates in this Secret.
    #[must_use]
    pub fn with_secret(mut self, name: impl Into<String>) -> Self {
        self.secret = name.into();
        self
    }

    /// Adds DNS names, for example `localhost`.
    #[must_use]
    pub fn with_names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.names = names.into_iter().map(Into::into).collect();
        self
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
}

/// Why the certificate could not be read, issued or published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A request about the Secret failed.
    #[error("cannot {verb} the Secret {namespace}/{name}: {problem}")]
    Secret {
        /// `get` or `write`.
        verb: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The API server's message.
        problem: String,
    },
    /// The Secret does not exist and cannot be created.
    #[error(
        "the Secret {namespace}/{name} does not exist and cannot be created: {problem}; create it empty and the webhook fills it"
    )]
    Gone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The API server's message.
        problem: String,
    },
    /// A request about the configuration failed.
    #[error("cannot update the CA bundle of the ValidatingWebhookConfiguration {name}: {problem}")]
    Configuration {
        /// Its name.
        name: String,
        /// The API server's message.
        problem: String,
    },
    /// Every write conflicted with a write by another replica.
    #[error(
        "cannot write the Secret {namespace}/{name}: every attempt conflicted with another writer"
    )]
    Overtaken {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The certificate could not be issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The certificate or its key is invalid.
    #[error(transparent)]
    Invalid(#[from] InvalidCertificate),
    /// A file could not be read.
    #[error("cannot read {path}: {problem}")]
    File {
        /// Which file.
        path: String,
        /// The system's message.
        problem: String,
    },
}

impl SelfIssued {
    /// Keeps a valid certificate served. Never returns.
    pub(super) async fn keep(self, client: Client, health: CertificateHealth) {
        let clock = std::sync::Arc::clone(&health.clock);
        let mut last = None;
        let mut failures: u32 = 0;
        loop {
            let again = match self.ensure(&client, &health, &mut last).await {
                Ok(()) => {
                    failures = 0;
                    health.set_problem(None);
                    CHECK_INTERVAL
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    warn!(%error, failures, "certificate check failed");
                    match &error {
                        // The served certificate stays valid, but no other replica can read it.
                        CertificateError::Gone { .. } => health.set_failure(error.to_string()),
                        _ => health.set_problem(Some(error.to_string())),
                    }
                    RETRY_INTERVALS.delay(failures)
                }
            };
            clock.sleep(again).await;
        }
    }

    /// Runs one check. `last` holds the certificates of the last successful one.
    async fn ensure(
        &self,
        client: &Client,
        health: &CertificateHealth,
        last: &mut Option<Issued>,
    ) -> Result<(), CertificateError> {
        let issued = match self
            .issued(client, health.clock.as_ref(), last.as_ref())
            .await
        {
            Ok(issued) => last.insert(issued),
            Err(error) => {
                // The served certificate must stay trusted even if the Secret is unusable.
                if let Some(last) = last {
                    self.trusted(client, last, BundleMatch::Contains).await?;
                }
                return Err(error);
            }
        };
        let certificate =
            Certificate::from_pem(issued.certificate.as_bytes(), issued.key.as_bytes())?;
        let trusted = self.trusted(client, issued, BundleMatch::Equals).await;
        // Keep serving the trusted certificate if the bundle update failed; with none served, serve the new one.
        if trusted.is_ok() || !health.served.is_set() {
            health.served.set(certificate);
        }
        trusted
    }

    async fn trusted(
        &self,
        client: &Client,
        issued: &Issued,
        required: BundleMatch,
    ) -> Result<(), CertificateError> {
        let Some(name) = &self.configuration else {
            return Ok(());
        };
        let ensured = ensure_bundle(client, name, &issued.bundle, required).await;
        ensured.map_err(|error| CertificateError::Configuration {
            name: name.clone(),
            problem: problem(&error),
        })
    }

    /// The stored certificates, renewed if due. If they were removed from the Secret, the last known ones are
    /// written back.
    async fn issued(
        &self,
        client: &Client,
        clock: &dyn Clock,
        last: Option<&Issued>,
    ) -> Result<Issued, CertificateError> {
        let kept = CertSecret::new(client.clone(), &self.namespace, &self.secret);
        let failed = |verb: &'static str| {
            move |error: kube::Error| CertificateError::Secret {
                verb,
                namespace: self.namespace.clone(),
                name: self.secret.clone(),
                problem: problem(&error),
            }
        };
        for _ in 0..ATTEMPTS {
            let read = kept.read().await.map_err(failed("get"))?;
            let known = read.issued.as_ref().or(last);
            let next = match renewed(known, &self.dns_names(), clock.now())? {
                Some(next) => next,
                None => match (&read.issued, last) {
                    (Some(issued), _) => return Ok(issued.clone()),
                    (None, Some(last)) => last.clone(),
                    (None, None) => continue,
                },
            };
            let gone = read.is_missing();
            match kept.write(read, &next).await {
                Ok(SecretWrite::Done) => {
                    info!(secret = self.secret, "webhook certificate written");
                    return Ok(next);
                }
                Ok(SecretWrite::Conflict) => {}
                Err(error) if gone => {
                    return Err(CertificateError::Gone {
                        namespace: self.namespace.clone(),
                        name: self.secret.clone(),
                        problem: problem(&error),
                    });
                }
                Err(error) => return Err(failed("write")(error)),
            }
        }
        Err(CertificateError::Overtaken {
            namespace: self.namespace.clone(),
            name: self.secret.clone(),
        })
    }
}

/// Field manager of the webhook's writes to the configuration and the Secret.
const FIELD_MANAGER: &str = "fledged-webhook";

/// When the current bundle needs no update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BundleMatch {
    /// It is equal to the desired bundle.
    Equals,
    /// It contains the newest CA certificate of the desired bundle; it may hold newer ones as well.
    Contains,
}

/// Sets the CA bundle in every webhook of the named configuration. Writes nothing if it is already set.
///
/// The webhook then drops its ownership of the field. Otherwise a server-side apply of the configuration with a
/// bundle in it, such as a helm rollback to kube-fledged's chart, would conflict; an overwritten bundle is
/// restored by the next check.
async fn ensure_bundle(
    client: &Client,
    name: &str,
    bundle: &str,
    required: BundleMatch,
) -> kube::Result<()> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let mut found = api.get(name).await?;
    if let Some(operations) = bundle_patch(&found, bundle, required) {
        found = change(&api, name, operations).await?;
        info!(configuration = name, "webhook CA bundle updated");
    }
    if let Some(operations) = drop_managed_fields(&found) {
        change(&api, name, operations).await?;
    }
    Ok(())
}

async fn change(
    api: &Api<ValidatingWebhookConfiguration>,
    name: &str,
    operations: Value,
) -> kube::Result<ValidatingWebhookConfiguration> {
    let patch = serde_json::from_value(operations).map_err(kube::Error::SerdeError)?;
    let patch: Patch<Value> = Patch::Json(patch);
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch(name, &params, &patch).await
}

/// A JSON patch operation that fails if the configuration has changed since it was read.
fn unchanged(found: &ValidatingWebhookConfiguration) -> Value {
    let version = &found.metadata.resource_version;
    json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version })
}

/// A JSON patch that removes the webhook's entries from `managedFields`.
fn drop_managed_fields(found: &ValidatingWebhookConfiguration) -> Option<Value> {
    let entries = found.metadata.managed_fields.iter().flatten().enumerate();
    let own = entries.filter(|(_, entry)| entry.manager.as_deref() == Some(FIELD_MANAGER));
    let mut operations: Vec<Value> = own
        .map(|(number, _)| json!({ "op": "remove", "path": format!("/metadata/managedFields/{number}") }))
        .collect();
    if operations.is_empty() {
        return None;
    }
    // Remove from the end, so that the remaining indexes stay valid.
    operations.push(unchanged(found));
    operations.reverse();
    Some(Value::Array(operations))
}

/// A JSON patch that sets the bundle where it does not match.
fn bundle_patch(
    found: &ValidatingWebhookConfiguration,
    bundle: &str,
    required: BundleMatch,
) -> Option<Value> {
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let matches = |there: Option<&ByteString>| match required {
        BundleMatch::Equals => there == Some(&wanted),
        BundleMatch::Contains => there.zip(newest(bundle)).is_some_and(|(there, newest)| {
            String::from_utf8_lossy(&there.0).contains(newest.trim_end())
        }),
    };
    let webhooks = found.webhooks.iter().flatten().enumerate();
    let stale = webhooks.filter(|(_, webhook)| !matches(webhook.client_config.ca_bundle.as_ref()));
    let mut operations: Vec<Value> = stale
        .map(|(number, _)| {
            let path = format!("/webhooks/{number}/clientConfig/caBundle");
            json!({ "op": "add", "path": path, "value": wanted })
        })
        .collect();
    if operations.is_empty() {
        return None;
    }
    operations.insert(0, unchanged(found));
    Some(Value::Array(operations))
}

/// Keys of the Secret's data.
const BUNDLE: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// The Secret with the certificates.
#[derive(Clone)]
struct CertSecret {
    api: Api<Secret>,
    name: String,
}

/// The Secret as it was read; a write replaces this version only.
struct Snapshot {
    issued: Option<Issued>,
    found: Option<Secret>,
}

impl Snapshot {
    /// Whether the Secret does not exist.
    fn is_missing(&self) -> bool {
        self.found.is_none()
    }
}

/// The result of a write.
enum SecretWrite {
    Done,
    /// Another replica changed the Secret first.
    Conflict,
}

impl CertSecret {
    fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
        }
    }

    async fn read(&self) -> kube::Result<Snapshot> {
        let found = self.api.get_opt(&self.name).await?;
        let issued = found.as_ref().and_then(issued);
        Ok(Snapshot { issued, found })
    }

    async fn write(&self, read: Snapshot, issued: &Issued) -> kube::Result<SecretWrite> {
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let written = match read.found {
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                };
                let secret = filled(
                    Secret {
                        metadata,
                        ..Secret::default()
                    },
                    issued,
                );
                self.api.create(&params, &secret).await
            }
            // With the resourceVersion that was read, so that a concurrent write wins.
            Some(found) => {
                let secret = filled(found, issued);
                self.api.replace(&self.name, &params, &secret).await
            }
        };
        match written {
            Ok(_) => Ok(SecretWrite::Done),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                Ok(SecretWrite::Conflict)
            }
            Err(error) => Err(error),
        }
    }
}

fn issued(secret: &Secret) -> Option<Issued> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(Issued {
        bundle: text(BUNDLE)?,
        authority_key: text(AUTHORITY_KEY)?,
        certificate: text(CERTIFICATE)?,
        key: text(KEY)?,
    })
}

fn filled(mut secret: Secret, issued: &Issued) -> Secret {
    let data = secret.data.get_or_insert_default();
    for (key, value) in [
        (BUNDLE, &issued.bundle),
        (AUTHORITY_KEY, &issued.authority_key),
        (CERTIFICATE, &issued.certificate),
        (KEY, &issued.key),
    ] {
        data.insert(key.to_owned(), ByteString(value.clone().into_bytes()));
    }
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_configuration(bundles: &[Option<&str>]) -> ValidatingWebhookConfiguration {
        let webhooks: Vec<Value> = bundles
            .iter()
            .enumerate()
            .map(|(number, bundle)| {
                let bundle = bundle.map(|bundle| json!(ByteString(bundle.as_bytes().to_vec())));
                json!({ "name": format!("w{number}.kubefledged.io"), "sideEffects": "None",
                    "admissionReviewVersions": ["v1"], "clientConfig": { "caBundle": bundle } })
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": { "name": "ours", "resourceVersion": "7" }, "webhooks": webhooks,
        }))
        .unwrap()
    }

    #[test]
    fn bundle_patch_changes_stale_webhooks_at_read_version() {
        assert_eq!(
            bundle_patch(
                &mk_configuration(&[Some("new"), Some("new")]),
                "new",
                BundleMatch::Equals
            ),
            None
        );
        let stale = mk_configuration(&[Some("new"), Some("old"), None]);
        let value = json!(ByteString(b"new".to_vec()));
        assert_eq!(
            bundle_patch(&stale, "new", BundleMatch::Equals).unwrap(),
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": "7" },
                { "op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": value },
                { "op": "add", "path": "/webhooks/2/clientConfig/caBundle", "value": value },
            ])
        );
    }

    #[test]
    fn contains_accepts_a_bundle_with_newer_authorities() {
        let pem = |name: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n")
        };
        let known = pem("second") + &pem("first");
        let newer = pem("third") + &pem("second");
        let newer = mk_configuration(&[Some(&newer)]);
        assert_eq!(bundle_patch(&newer, &known, BundleMatch::Contains), None);
        assert!(bundle_patch(&newer, &known, BundleMatch::Equals).is_some());
        for other in [Some(pem("other")), Some(String::new()), None] {
            let found = mk_configuration(&[other.as_deref()]);
            assert!(bundle_patch(&found, &known, BundleMatch::Contains).is_some());
        }
    }

    #[test]
    fn managed_fields_patch_removes_own_entries_at_read_version() {
        let mut found = mk_configuration(&[Some("new")]);
        assert_eq!(drop_managed_fields(&found), None);
        let managers = ["helm", FIELD_MANAGER, "kubectl", FIELD_MANAGER];
        let entries = managers.map(|manager| json!({ "manager": manager, "operation": "Update" }));
        found.metadata.managed_fields = Some(serde_json::from_value(json!(entries)).unwrap());
        assert_eq!(
            drop_managed_fields(&found).unwrap(),
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": "7" },
                { "op": "remove", "path": "/metadata/managedFields/3" },
                { "op": "remove", "path": "/metadata/managedFields/1" },
            ])
        );
    }
}
