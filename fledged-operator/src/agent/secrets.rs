//! Secrets and ServiceAccounts, read one by one when they are needed.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fledged_core::model::ObjectName;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use k8s_openapi::ByteString;
use kube::Client;
use kube::api::GetParams;
use kube::core::request::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::report::{Refusal, request};

/// Longest that one object may take: an API server that is well answers within a second, and a pull
/// waits for it.
const READ_LIMIT: Duration = Duration::from_secs(15);

/// Why an object could not be read. Never holds anything of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is not there.
    #[error("not found")]
    Missing,
    /// The agent may not read it.
    #[error("may not be read: {0}")]
    Forbidden(String),
    /// It is not what it should be.
    #[error("{0}")]
    Malformed(String),
    /// The API server gave no usable answer, this time.
    #[error("cannot be read for now: {problem}")]
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
    #[serde(default, rename = "imagePullSecrets")]
    pub(crate) pull_secrets: Option<Vec<LocalReference>>,
}

/// The name of an object in the same namespace.
#[derive(Deserialize)]
pub(crate) struct LocalReference {
    #[serde(default)]
    pub(crate) name: String,
}

type Answer<T> = Result<Arc<T>, ReadError>;
type Reading<T> = BoxFuture<'static, Answer<T>>;

/// Reads objects of one kind by name; who asks for the same one at the same time shares an answer.
/// Nothing is kept once they have it.
pub(crate) struct Objects<T> {
    client: Client,
    plural: &'static str,
    under_way: Mutex<BTreeMap<ObjectName, WeakShared<Reading<T>>>>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> Objects<T> {
    pub(crate) fn new(client: Client, plural: &'static str) -> Self {
        Self {
            client,
            plural,
            under_way: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, name: &ObjectName) -> impl Future<Output = Answer<T>> + use<T> {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, reading| reading.upgrade().is_some());
        if let Some(reading) = under_way.get(name).and_then(WeakShared::upgrade) {
            return reading;
        }
        let reading = read(self.client.clone(), self.plural, name.clone());
        let reading: Shared<Reading<T>> = reading.boxed().shared();
        if let Some(weak) = reading.downgrade() {
            under_way.insert(name.clone(), weak);
        }
        reading
    }
}

async fn read<T: DeserializeOwned>(
    client: Client,
    plural: &'static str,
    name: ObjectName,
) -> Answer<T> {
    // They become a path.
    if !is_name(&name.namespace) || !is_name(&name.name) {
        return Err(ReadError::Malformed("it is no object's name".to_owned()));
    }
    let path = format!("/api/v1/namespaces/{}/{plural}", name.namespace);
    let get = Request::new(path)
        .get(&name.name, &GetParams::default())
        .map_err(|error| ReadError::Malformed(error.to_string()))?;
    let answer = request(&client, get, READ_LIMIT).await.map_err(refused)?;
    // The parser's own words may repeat a value.
    let object = serde_json::from_slice(&answer);
    let object = object.map_err(|_| ReadError::Malformed("is not a valid object".to_owned()))?;
    Ok(Arc::new(object))
}

/// Whether a text is made of what names of Kubernetes are made of (RFC 1123).
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !text.is_empty()
        && text.split('.').all(|label| !label.is_empty())
        && text
            .bytes()
            .all(|byte| plain(byte) || byte == b'-' || byte == b'.')
}

fn refused(refusal: Refusal) -> ReadError {
    match refusal.status {
        Some(status) if status.is_not_found() => ReadError::Missing,
        Some(status) if status.is_forbidden() => ReadError::Forbidden(status.message.clone()),
        _ => ReadError::Unavailable {
            problem: refusal.problem,
            retry_after: refusal.retry_after,
        },
    }
}
