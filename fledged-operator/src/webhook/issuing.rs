//! Self-issued certificates: kept in a Secret that all replicas share, renewed, and published as the CA bundle.

use std::time::Duration;

use fledged_core::port::Clock;
use fledged_core::warmer::Schedule;
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

/// How often it is looked whether everything is as it should be: another replica may have renewed it,
/// somebody may have applied the configuration anew.
const AGAIN: Duration = Duration::from_secs(30);
/// After failures in a row: sooner at first, then less often, as somebody has to do something.
const AGAIN_FAILED: Schedule = Schedule::seconds(5, 60);
/// How often another replica may be first.
const ATTEMPTS: usize = 5;

/// Certificates that the webhook makes for itself.
///
/// An authority of a year and a server's certificate of 90 days are kept in a Secret that all replicas
/// share, and renewed when a third of their time is left. The authority's certificate is kept in the
/// ValidatingWebhookConfiguration, if one is named: the new one together with the one before, and before
/// anything is served that only the new one vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelfIssued {
    /// Namespace of the Service and of the Secret.
    pub namespace: String,
    /// Name of the Service in front of the webhook.
    pub service: String,
    /// Name of the Secret. Default: the Service's name and `-tls`.
    pub secret: String,
    /// Name of the ValidatingWebhookConfiguration whose CA bundle is kept. Default: none is touched.
    pub configuration: Option<String>,
    /// Further DNS names. Default none.
    pub names: Vec<String>,
}

impl SelfIssued {
    /// For the webhook behind that Service.
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

    /// Keeps the CA bundle of that ValidatingWebhookConfiguration.
    #[must_use]
    pub fn with_configuration(mut self, name: impl Into<String>) -> Self {
        self.configuration = Some(name.into());
        self
    }

    /// In that Secret.
    #[must_use]
    pub fn with_secret(mut self, name: impl Into<String>) -> Self {
        self.secret = name.into();
        self
    }

    /// Also for these DNS names, `localhost` for instance.
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

/// Why there is no certificate for now.
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
        /// The API server's words.
        problem: String,
    },
    /// There is no Secret, and it can't be made.
    #[error(
        "the Secret {namespace}/{name} is gone and cannot be made again: {problem}; make it, empty, and it is filled"
    )]
    Gone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The API server's words.
        problem: String,
    },
    /// A request about the configuration failed.
    #[error("cannot keep the CA bundle of the ValidatingWebhookConfiguration {name}: {problem}")]
    Configuration {
        /// Its name.
        name: String,
        /// The API server's words.
        problem: String,
    },
    /// Other replicas were always first.
    #[error("the Secret {namespace}/{name} changes whenever it is to be written")]
    Overtaken {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// It could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// What was made can't be used.
    #[error(transparent)]
    Invalid(#[from] InvalidCertificate),
    /// A file can't be read.
    #[error("cannot read {path}: {problem}")]
    File {
        /// Which file.
        path: String,
        /// The system's words.
        problem: String,
    },
}

impl SelfIssued {
    /// Keeps a certificate served, for ever.
    pub(super) async fn keep(self, client: Client, health: CertificateHealth) {
        let clock = std::sync::Arc::clone(&health.clock);
        let mut last = None;
        let mut failures: u32 = 0;
        loop {
            let again = match self.ensure(&client, &health, &mut last).await {
                Ok(()) => {
                    failures = 0;
                    health.tell(None);
                    AGAIN
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    warn!(%error, failures, "certificate not kept");
                    match &error {
                        // What is served is good until its time is over, but no other replica can have it.
                        CertificateError::Gone { .. } => health.fail(error.to_string()),
                        _ => health.tell(Some(error.to_string())),
                    }
                    AGAIN_FAILED.delay(failures)
                }
            };
            clock.sleep(again).await;
        }
    }

    /// `last` is what was kept the last time.
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
                // Whatever is wrong with the Secret, what is served is to be believed.
                if let Some(last) = last {
                    self.trusted(client, last, Enough::Contains).await?;
                }
                return Err(error);
            }
        };
        let certificate =
            Certificate::from_pem(issued.certificate.as_bytes(), issued.key.as_bytes())?;
        let trusted = self.trusted(client, issued, Enough::Equals).await;
        // What is served is believed until its time is over; with nothing served there is nothing to lose.
        if trusted.is_ok() || !health.served.is_set() {
            health.served.set(certificate);
        }
        trusted
    }

    async fn trusted(
        &self,
        client: &Client,
        issued: &Issued,
        enough: Enough,
    ) -> Result<(), CertificateError> {
        let Some(name) = &self.configuration else {
            return Ok(());
        };
        let ensured = ensure(client, name, &issued.bundle, enough).await;
        ensured.map_err(|error| CertificateError::Configuration {
            name: name.clone(),
            problem: problem(&error),
        })
    }

    /// What is kept, renewed if need be; where somebody has taken it out of the Secret, the last that was kept.
    async fn issued(
        &self,
        client: &Client,
        clock: &dyn Clock,
        last: Option<&Issued>,
    ) -> Result<Issued, CertificateError> {
        let kept = Kept::new(client.clone(), &self.namespace, &self.secret);
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
                Ok(Written::Done) => {
                    info!(secret = self.secret, "the certificate was written");
                    return Ok(next);
                }
                Ok(Written::Overtaken) => {}
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

/// Name of the webhook as a writer of the configuration and of its Secret.
pub(super) const FIELD_MANAGER: &str = "fledged-webhook";

/// When the bundle that is there will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enough {
    /// Where it is the wanted one.
    Equals,
    /// Where the newest authority of the wanted one is in it: there may be newer ones that are not known of.
    Contains,
}

/// Brings the CA bundle into every webhook of the configuration of that name, and of no other; writes
/// nothing where it is there.
///
/// The bundle is then nobody's. Whoever applies the configuration server-side with a bundle in it, as helm
/// does on its way back to kube-fledged's chart, would be refused over a field that the webhook owns; and
/// what is applied over it is mended here anyway.
pub(super) async fn ensure(
    client: &Client,
    name: &str,
    bundle: &str,
    enough: Enough,
) -> kube::Result<()> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let mut found = api.get(name).await?;
    if let Some(operations) = renewal(&found, bundle, enough) {
        found = change(&api, name, operations).await?;
        info!(configuration = name, "the CA bundle was renewed");
    }
    if let Some(operations) = disowning(&found) {
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

/// Fails where somebody else has changed the configuration meanwhile.
fn unchanged(found: &ValidatingWebhookConfiguration) -> Value {
    let version = &found.metadata.resource_version;
    json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version })
}

/// A JSON patch after which the webhook owns no field.
fn disowning(found: &ValidatingWebhookConfiguration) -> Option<Value> {
    let entries = found.metadata.managed_fields.iter().flatten().enumerate();
    let own = entries.filter(|(_, entry)| entry.manager.as_deref() == Some(FIELD_MANAGER));
    let mut operations: Vec<Value> = own
        .map(|(number, _)| json!({ "op": "remove", "path": format!("/metadata/managedFields/{number}") }))
        .collect();
    if operations.is_empty() {
        return None;
    }
    // From the last on, so that no number means another entry.
    operations.push(unchanged(found));
    operations.reverse();
    Some(Value::Array(operations))
}

/// A JSON patch that brings the bundle.
fn renewal(found: &ValidatingWebhookConfiguration, bundle: &str, enough: Enough) -> Option<Value> {
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let is_enough = |there: Option<&ByteString>| match enough {
        Enough::Equals => there == Some(&wanted),
        Enough::Contains => there.zip(newest(bundle)).is_some_and(|(there, newest)| {
            String::from_utf8_lossy(&there.0).contains(newest.trim_end())
        }),
    };
    let webhooks = found.webhooks.iter().flatten().enumerate();
    let stale =
        webhooks.filter(|(_, webhook)| !is_enough(webhook.client_config.ca_bundle.as_ref()));
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

/// One Secret.
#[derive(Clone)]
pub(super) struct Kept {
    api: Api<Secret>,
    name: String,
}

/// The Secret as it was read, to be written back over that and nothing else.
pub(super) struct Read {
    pub(super) issued: Option<Issued>,
    found: Option<Secret>,
}

impl Read {
    /// Whether there is no such Secret.
    pub(super) fn is_missing(&self) -> bool {
        self.found.is_none()
    }
}

/// How a write ended.
pub(super) enum Written {
    Done,
    /// Another replica was first.
    Overtaken,
}

impl Kept {
    pub(super) fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
        }
    }

    pub(super) async fn read(&self) -> kube::Result<Read> {
        let found = self.api.get_opt(&self.name).await?;
        let issued = found.as_ref().and_then(issued);
        Ok(Read { issued, found })
    }

    pub(super) async fn write(&self, read: Read, issued: &Issued) -> kube::Result<Written> {
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
            // With the version that was read: whoever was faster has won.
            Some(found) => {
                let secret = filled(found, issued);
                self.api.replace(&self.name, &params, &secret).await
            }
        };
        match written {
            Ok(_) => Ok(Written::Done),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                Ok(Written::Overtaken)
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
    fn only_what_differs_is_patched_and_only_if_nobody_was_faster() {
        assert_eq!(
            renewal(
                &mk_configuration(&[Some("new"), Some("new")]),
                "new",
                Enough::Equals
            ),
            None
        );
        let stale = mk_configuration(&[Some("new"), Some("old"), None]);
        let value = json!(ByteString(b"new".to_vec()));
        assert_eq!(
            renewal(&stale, "new", Enough::Equals).unwrap(),
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": "7" },
                { "op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": value },
                { "op": "add", "path": "/webhooks/2/clientConfig/caBundle", "value": value },
            ])
        );
    }

    #[test]
    fn a_bundle_with_newer_authorities_is_left_to_whoever_knows_them() {
        let pem = |name: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n")
        };
        let known = pem("second") + &pem("first");
        let newer = pem("third") + &pem("second");
        let newer = mk_configuration(&[Some(&newer)]);
        assert_eq!(renewal(&newer, &known, Enough::Contains), None);
        assert!(renewal(&newer, &known, Enough::Equals).is_some());
        for other in [Some(pem("other")), Some(String::new()), None] {
            let found = mk_configuration(&[other.as_deref()]);
            assert!(renewal(&found, &known, Enough::Contains).is_some());
        }
    }

    #[test]
    fn only_its_own_entries_are_given_up_and_only_if_nobody_was_faster() {
        let mut found = mk_configuration(&[Some("new")]);
        assert_eq!(disowning(&found), None);
        let managers = ["helm", FIELD_MANAGER, "kubectl", FIELD_MANAGER];
        let entries = managers.map(|manager| json!({ "manager": manager, "operation": "Update" }));
        found.metadata.managed_fields = Some(serde_json::from_value(json!(entries)).unwrap());
        assert_eq!(
            disowning(&found).unwrap(),
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": "7" },
                { "op": "remove", "path": "/metadata/managedFields/3" },
                { "op": "remove", "path": "/metadata/managedFields/1" },
            ])
        );
    }
}
