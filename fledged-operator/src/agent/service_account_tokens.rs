//! Tokens of ServiceAccounts, for credential-provider plugins that ask for them (KEP-4412).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::ObjectName;
use fledged_cri::credentials::{ServiceAccountFacts, ServiceAccounts};
use fledged_kube::bounded_client::bounded;
use kube::Client;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::pull_secrets::{Objects, READ_LIMIT, ReadError, ServiceAccount, is_name, read_error};

/// ServiceAccounts and their tokens, for
/// [`CredentialProviders::with_service_accounts`](fledged_cri::CredentialProviders::with_service_accounts).
///
/// A token is requested for the audience that a plugin names, and is bound to no pod. It is used for four fifths of
/// its life, as in the kubelet. Permission to `create` `serviceaccounts/token` is needed, besides `get` for
/// ServiceAccounts.
pub struct KubeServiceAccounts {
    client: Client,
    accounts: Objects<ServiceAccount>,
    tokens: Mutex<BTreeMap<TokenKey, (Instant, SecretString)>>,
}

/// ServiceAccount, UID and audience.
type TokenKey = (ObjectName, String, String);

impl fmt::Debug for KubeServiceAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeServiceAccounts")
            .finish_non_exhaustive()
    }
}

/// The parts of a TokenRequest that are read.
#[derive(Deserialize)]
struct TokenRequest {
    spec: TokenSpec,
    status: TokenStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenSpec {
    #[serde(default)]
    expiration_seconds: u64,
}

#[derive(Deserialize)]
struct TokenStatus {
    token: String,
}

impl KubeServiceAccounts {
    /// Reads ServiceAccounts and requests tokens with this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            accounts: Objects::new(client.clone(), "serviceaccounts"),
            client,
            tokens: Mutex::default(),
        }
    }

    async fn request(
        &self,
        name: &ObjectName,
        uid: &str,
        audience: &str,
    ) -> Result<TokenRequest, ReadError> {
        // The names become part of the path.
        if !is_name(&name.namespace) || !is_name(&name.name) {
            return Err(ReadError::Malformed("not a valid object name".to_owned()));
        }
        let path = format!(
            "/api/v1/namespaces/{}/serviceaccounts/{}/token",
            name.namespace, name.name
        );
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"uid": uid},
            "spec": {"audiences": [audience]},
        });
        let malformed = |error: http::Error| ReadError::Malformed(error.to_string());
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .map_err(malformed)?;
        let text = bounded(&self.client, READ_LIMIT)
            .request_text(request)
            .await;
        let text = text.map_err(|error| match read_error(&error) {
            ReadError::Forbidden => ReadError::Malformed(
                "the agent may not create it (see agent.credentialProviders.serviceAccountTokens)"
                    .to_owned(),
            ),
            error => error,
        })?;
        // Without the parser's message, which may repeat the token.
        serde_json::from_str(&text)
            .map_err(|_| ReadError::Malformed("the API server returned no token".to_owned()))
    }
}

#[async_trait]
impl ServiceAccounts for KubeServiceAccounts {
    async fn facts(&self, name: &ObjectName) -> Result<ServiceAccountFacts, Failure> {
        let account = self.accounts.get(name).await.map_err(failure)?;
        Ok(ServiceAccountFacts {
            uid: account.metadata.uid.clone(),
            annotations: account.metadata.annotations.clone().unwrap_or_default(),
        })
    }

    async fn token(
        &self,
        name: &ObjectName,
        uid: &str,
        audience: &str,
    ) -> Result<SecretString, Failure> {
        let key = (name.clone(), uid.to_owned(), audience.to_owned());
        let held = {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            tokens.retain(|_, (renewal, _)| now < *renewal);
            tokens.get(&key).map(|(_, token)| token.clone())
        };
        if let Some(token) = held {
            return Ok(token);
        }
        let started = Instant::now();
        let granted = self.request(name, uid, audience).await.map_err(failure)?;
        let life = Duration::from_secs(granted.spec.expiration_seconds.min(LIFE_MAX_SECONDS));
        let token = SecretString::from(granted.status.token);
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(key, (started + life * 4 / 5, token.clone()));
        Ok(token)
    }
}

/// A token is renewed after a day at the latest, as in the kubelet.
const LIFE_MAX_SECONDS: u64 = 24 * 3600;

fn failure(error: ReadError) -> Failure {
    match &error {
        ReadError::Unavailable { retry_after, .. } => {
            let failure = Failure::new(Reason::ConnectionFailed, error.to_string());
            failure.with_retry_after(*retry_after)
        }
        _ => Failure::new(Reason::CredentialsUnavailable, error.to_string()),
    }
}
