//! Registry credentials from Secrets and ServiceAccounts, each read by name when a pull needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ImageRef, ObjectName};
use fledged_core::port::{
    Credentials, CredentialsProblem, CredentialsRequest, FoundCredentials, RegistryAuth,
};
use fledged_cri::credentials::PullSecretKeyring;
use fledged_kube::bounded_client::bounded;
use fledged_kube::request_error::{problem, retry_after};
use futures_util::future::{BoxFuture, FutureExt, Shared};
use futures_util::stream::{self, StreamExt};
use k8s_openapi::ByteString;
use kube::Client;
use kube::api::GetParams;
use kube::core::request::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::warn;

/// Registry credentials from the pull secrets that an image's caches name, then from those of their
/// ServiceAccounts, matched as the kubelet does for a pod. The credentials of one namespace come before those of
/// the next, and are not merged with them.
///
/// Each object is read by name when a pull needs it, never listed or watched. What was read is shared for some
/// seconds, so rotated credentials apply from then on, and `get` is the only permission needed.
pub struct KubeCredentials {
    secrets: Objects<Secret>,
    accounts: Objects<ServiceAccount>,
}

impl fmt::Debug for KubeCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeCredentials").finish_non_exhaustive()
    }
}

/// A Secret or ServiceAccount that could not be used.
struct UnusableObject {
    kind: &'static str,
    name: ObjectName,
    /// The ServiceAccount that names the Secret.
    account: Option<ObjectName>,
    error: ReadError,
}

impl fmt::Display for UnusableObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)?;
        if let Some(account) = &self.account {
            write!(f, " of service account {account}")?;
        }
        write!(f, ": {}", self.error)
    }
}

impl KubeCredentials {
    /// Reads credentials with this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            secrets: Objects::new(client.clone(), "secrets"),
            accounts: Objects::new(client, "serviceaccounts"),
        }
    }

    /// The Secrets of a request, its own and those of its ServiceAccounts, each once and with its ServiceAccount.
    async fn names(
        &self,
        request: &CredentialsRequest,
    ) -> (Vec<(ObjectName, Option<ObjectName>)>, Vec<UnusableObject>) {
        let own = request.pull_secrets.iter();
        let mut names: Vec<_> = own.map(|name| (name.clone(), None)).collect();
        let mut problems = Vec::new();
        let accounts = self.accounts.get_all(request.service_accounts.clone());
        for (name, account) in accounts.await {
            match account {
                Ok(account) => {
                    let secrets = account.pull_secrets.iter().flatten();
                    names.extend(secrets.map(|secret| {
                        let secret = ObjectName::new(&*name.namespace, secret.name.clone());
                        (secret, Some(name.clone()))
                    }));
                }
                Err(error) => problems.push(UnusableObject {
                    kind: "service account",
                    name: name.clone(),
                    account: None,
                    error,
                }),
            }
        }
        let mut seen = BTreeSet::new();
        names.retain(|(name, _)| !name.name.is_empty() && seen.insert(name.clone()));
        (names, problems)
    }
}

#[async_trait]
impl Credentials for KubeCredentials {
    async fn resolve(&self, request: &CredentialsRequest) -> FoundCredentials {
        let (names, mut problems) = self.names(request).await;
        let (names, accounts): (Vec<_>, Vec<_>) = names.into_iter().unzip();
        let secrets = self.secrets.get_all(names).await;
        // Apart by namespace: no namespace's entry hides that of another, however specific.
        let mut keyrings: Vec<(String, PullSecretKeyring)> = Vec::new();
        for ((name, secret), account) in secrets.into_iter().zip(accounts) {
            let read = secret.and_then(|secret| keyring_of(&secret, &request.image));
            let (found, error) = match read {
                Ok((found, malformed)) => (Some(found), malformed),
                Err(error) => (None, Some(error)),
            };
            if let Some(found) = found {
                match keyrings.iter_mut().find(|(of, _)| *of == name.namespace) {
                    Some((_, keyring)) => keyring.extend(found),
                    None => keyrings.push((name.namespace.clone(), found)),
                }
            }
            problems.extend(error.map(|error| UnusableObject {
                kind: "pull secret",
                name,
                account,
                error,
            }));
        }
        let auths = keyrings
            .iter()
            .map(|(_, keyring)| keyring.find(&request.image));
        let auths: Vec<RegistryAuth> = auths.flatten().collect();
        for problem in &problems {
            warn!(
                image = %request.image,
                kind = problem.kind,
                name = %problem.name,
                problem = %problem.error,
                matched = auths.len(),
                "registry credentials ignored"
            );
        }
        one_of_each_namespace_first(&mut problems);
        let mut found = FoundCredentials::from(auths);
        found.problems = problems.iter().map(reported).collect();
        found
    }
}

/// The entries of a Secret, and the problem of a malformed entry that matches the image.
fn keyring_of(
    secret: &Secret,
    image: &ImageRef,
) -> Result<(PullSecretKeyring, Option<ReadError>), ReadError> {
    let (key, parse): (_, fn(&[u8]) -> _) = match secret.kind.as_str() {
        "kubernetes.io/dockerconfigjson" => (
            ".dockerconfigjson",
            PullSecretKeyring::from_docker_config_json,
        ),
        "kubernetes.io/dockercfg" => (".dockercfg", PullSecretKeyring::from_docker_cfg),
        other => {
            return Err(ReadError::Malformed(format!(
                "it is of type {other:?}, which holds no registry credentials"
            )));
        }
    };
    let content = secret.data.as_ref().and_then(|data| data.get(key));
    let content = content.ok_or_else(|| ReadError::Malformed(format!("it has no {key:?}")))?;
    let malformed = |error: &dyn fmt::Display| ReadError::Malformed(error.to_string());
    let keyring = parse(&content.0).map_err(|error| malformed(&error))?;
    let entry = keyring.malformed_for(image).map(|error| malformed(&error));
    Ok((keyring, entry))
}

/// Sorts the problems so that one namespace's do not displace those of the others in a text of limited length.
fn one_of_each_namespace_first(problems: &mut [UnusableObject]) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    problems.sort_by_cached_key(|problem| {
        let count = counts.entry(problem.name.namespace.clone()).or_default();
        *count += 1;
        *count
    });
}

/// The problem as pulls report it.
fn reported(problem: &UnusableObject) -> CredentialsProblem {
    let (reason, retry_after) = match &problem.error {
        ReadError::Unavailable { retry_after, .. } => (Reason::ConnectionFailed, *retry_after),
        _ => (Reason::CredentialsUnavailable, None),
    };
    let failure = Failure::new(reason, problem.to_string()).with_retry_after(retry_after);
    CredentialsProblem::named(failure)
}

/// Maximum number of concurrent reads for one image.
const READS_MAX: usize = 8;
/// How long an object that was read is shared: images of one cache are pulled one after another.
const SHARED_FOR: Duration = Duration::from_secs(2);
/// Limit for one read. A healthy API server responds within a second, and a pull waits for it.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(15);

/// Why an object could not be read. It never holds content of the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    /// The object does not exist.
    #[error("not found")]
    Missing,
    /// The agent may not read it.
    // The API server's message names the agent's account and the namespace; this text reaches other tenants.
    #[error("the agent may not read it (see agent.secretNamespaces)")]
    Forbidden,
    /// The object is malformed.
    #[error("{0}")]
    Malformed(String),
    /// The API server did not return a usable response.
    #[error("cannot be read: {problem}")]
    Unavailable {
        problem: String,
        retry_after: Option<Duration>,
    },
}

/// The parts of a Secret that are read.
#[derive(Deserialize)]
pub(super) struct Secret {
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) data: Option<BTreeMap<String, ByteString>>,
}

/// The parts of a ServiceAccount that are read.
#[derive(Deserialize)]
pub(crate) struct ServiceAccount {
    #[serde(default)]
    pub(super) metadata: AccountMetadata,
    #[serde(default, rename = "imagePullSecrets")]
    pub(crate) pull_secrets: Option<Vec<LocalReference>>,
}

/// The parts of a ServiceAccount's metadata that are read.
#[derive(Default, Deserialize)]
pub(super) struct AccountMetadata {
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

/// The name of an object in the same namespace.
#[derive(Deserialize)]
pub(crate) struct LocalReference {
    #[serde(default)]
    pub(crate) name: String,
}

type Answer<T> = Result<Arc<T>, ReadError>;
type Reading<T> = Shared<BoxFuture<'static, Answer<T>>>;

/// Reads objects of one kind by name. Reads of the same object within [`SHARED_FOR`] share a request.
pub(crate) struct Objects<T> {
    client: Client,
    plural: &'static str,
    reads: Mutex<BTreeMap<ObjectName, (Instant, Reading<T>)>>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> Objects<T> {
    pub(crate) fn new(client: Client, plural: &'static str) -> Self {
        Self {
            client,
            plural,
            reads: Mutex::default(),
        }
    }

    /// Reads some objects, a few at a time, in this order.
    async fn get_all(&self, names: Vec<ObjectName>) -> Vec<(ObjectName, Answer<T>)> {
        let reads = names.into_iter().map(|name| {
            let reading = self.get(&name);
            async move { (name, reading.await) }
        });
        let reads: Vec<_> = reads.collect();
        stream::iter(reads).buffered(READS_MAX).collect().await
    }

    pub(crate) fn get(&self, name: &ObjectName) -> impl Future<Output = Answer<T>> + use<T> {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        reads.retain(|_, (began, reading)| {
            let age = now.duration_since(*began);
            match reading.peek() {
                None => age < READ_LIMIT,
                // What was missing may have been created since, and a pull that fails again waits for minutes.
                Some(Err(_)) => fledged_core::planted::is("missing-secret-remembered"),
                Some(Ok(_)) => age < SHARED_FOR,
            }
        });
        if let Some((_, reading)) = reads.get(name) {
            return reading.clone();
        }
        let reading = read(self.client.clone(), self.plural, name.clone());
        let reading: Reading<T> = reading.boxed().shared();
        reads.insert(name.clone(), (now, reading.clone()));
        reading
    }
}

async fn read<T: DeserializeOwned>(
    client: Client,
    plural: &'static str,
    name: ObjectName,
) -> Answer<T> {
    // The names become part of the path.
    if !is_name(&name.namespace) || !is_name(&name.name) {
        return Err(ReadError::Malformed("not a valid object name".to_owned()));
    }
    let path = format!("/api/v1/namespaces/{}/{plural}", name.namespace);
    let get = Request::new(path)
        .get(&name.name, &GetParams::default())
        .map_err(|error| ReadError::Malformed(error.to_string()))?;
    // `Client::request` would log an object that it cannot parse, and the message of the parser may repeat a value.
    let text = bounded(&client, READ_LIMIT).request_text(get).await;
    let object = serde_json::from_str(&text.map_err(|error| read_error(&error))?);
    let object = object.map_err(|_| ReadError::Malformed("is not a valid object".to_owned()))?;
    Ok(Arc::new(object))
}

/// Whether the text is a valid Kubernetes object name (RFC 1123 subdomain).
pub(super) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !text.is_empty()
        && text.split('.').all(|label| !label.is_empty())
        && text
            .bytes()
            .all(|byte| plain(byte) || byte == b'-' || byte == b'.')
}

pub(super) fn read_error(error: &kube::Error) -> ReadError {
    match error {
        kube::Error::Api(status) if status.is_not_found() => ReadError::Missing,
        kube::Error::Api(status) if status.is_forbidden() => ReadError::Forbidden,
        error => ReadError::Unavailable {
            problem: problem(error),
            retry_after: retry_after(error),
        },
    }
}
