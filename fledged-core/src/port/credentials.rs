//! The port to credentials.

use async_trait::async_trait;
use secrecy::SecretString;

use crate::error::Failure;
use crate::model::{ImageRef, ObjectName};

/// Credentials for one registry. `Debug` never shows the secret part.
///
/// Exhaustive on purpose: these are the kinds that runtimes take (CRI's `AuthConfig`), and a backend that
/// passed over one would pull anonymously.
#[derive(Debug, Clone)]
pub enum RegistryAuth {
    /// User name and password (HTTP basic, or to obtain a token with).
    Basic {
        /// User name.
        username: String,
        /// Password or access token used as one.
        password: SecretString,
    },
    /// An OAuth2 refresh token (`identitytoken` in a docker configuration).
    IdentityToken(SecretString),
    /// A bearer token, sent to the registry unchanged (`registrytoken`).
    RegistryToken(SecretString),
}

impl RegistryAuth {
    /// User name and password.
    pub fn basic(username: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Self::Basic {
            username: username.into(),
            password: password.into(),
        }
    }
}

/// A request for the credentials of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CredentialsRequest {
    /// The image that is about to be pulled.
    pub image: ImageRef,
    /// Secrets that may hold credentials, in the order to try them.
    pub pull_secrets: Vec<ObjectName>,
    /// ServiceAccounts whose `imagePullSecrets` may hold them.
    pub service_accounts: Vec<ObjectName>,
}

impl CredentialsRequest {
    /// A request for an image without secrets and ServiceAccounts.
    #[must_use]
    pub fn new(image: ImageRef) -> Self {
        Self {
            image,
            pull_secrets: Vec::new(),
            service_accounts: Vec::new(),
        }
    }

    /// With these secrets, in the order to try them.
    #[must_use]
    pub fn with_pull_secrets(mut self, secrets: impl IntoIterator<Item = ObjectName>) -> Self {
        self.pull_secrets = secrets.into_iter().collect();
        self
    }

    /// With these ServiceAccounts.
    #[must_use]
    pub fn with_service_accounts(mut self, accounts: impl IntoIterator<Item = ObjectName>) -> Self {
        self.service_accounts = accounts.into_iter().collect();
        self
    }
}

/// A source of registry credentials, which is read before every pull.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Every set of credentials that matches the image, in the order to try them. Empty: pull
    /// anonymously.
    ///
    /// # Errors
    ///
    /// A [`Failure`] with [`Reason::CredentialsUnavailable`](crate::error::Reason) when a named
    /// source is missing or malformed and no other matched; one of a transient
    /// [class](crate::error::ErrorClass::is_transient) when a source can't be read for now.
    async fn resolve(&self, request: &CredentialsRequest) -> Result<Vec<RegistryAuth>, Failure>;
}

/// No credentials: every pull is anonymous.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn resolve(&self, _request: &CredentialsRequest) -> Result<Vec<RegistryAuth>, Failure> {
        Ok(Vec::new())
    }
}
