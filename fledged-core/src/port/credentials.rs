//! The port to credentials.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::error::{ErrorClass, Failure, Reason, plain_text};
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
    /// Longest time that a program which has credentials may take; `None` if only its own limit counts.
    pub limit: Option<Duration>,
}

impl CredentialsRequest {
    /// A request for an image without secrets and ServiceAccounts.
    #[must_use]
    pub fn new(image: ImageRef) -> Self {
        Self {
            image,
            pull_secrets: Vec::new(),
            service_accounts: Vec::new(),
            limit: None,
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

    /// For an attempt that has to end within `left`. Programs get half of it, so that a program that hangs is named
    /// and the attempt is made without it.
    #[must_use]
    pub fn within(mut self, left: Duration) -> Self {
        self.limit = Some(left / 2);
        self
    }
}

/// A source of credentials that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CredentialsProblem {
    /// Which source, and why. [`Reason::CredentialsUnavailable`] if it is missing or malformed; a reason of a
    /// transient [class](ErrorClass::is_transient) if it can't be read for now.
    pub failure: Failure,
    /// Whether the source was named for this image. If so, the problem is also reported if the image can be
    /// pulled without it.
    pub named: bool,
}

impl CredentialsProblem {
    /// The problem of a source that was named for the image, such as a pull secret.
    #[must_use]
    pub fn named(failure: Failure) -> Self {
        let named = true;
        Self { failure, named }
    }

    /// The problem of a source of the node.
    #[must_use]
    pub fn of_node(failure: Failure) -> Self {
        let named = false;
        Self { failure, named }
    }
}

/// The credentials for an image, and the sources of credentials that could not be used.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FoundCredentials {
    /// Every set of credentials that matches the image, in the order to try them.
    pub auths: Vec<RegistryAuth>,
    /// Sources that could not be used.
    pub problems: Vec<CredentialsProblem>,
}

impl From<Vec<RegistryAuth>> for FoundCredentials {
    fn from(auths: Vec<RegistryAuth>) -> Self {
        let problems = Vec::new();
        Self { auths, problems }
    }
}

/// A source that was named for the image.
impl From<Failure> for FoundCredentials {
    fn from(failure: Failure) -> Self {
        Self {
            auths: Vec::new(),
            problems: vec![CredentialsProblem::named(failure)],
        }
    }
}

impl FoundCredentials {
    /// Adds those of another source, to be tried after these.
    pub fn extend(&mut self, other: Self) {
        self.auths.extend(other.auths);
        self.problems.extend(other.problems);
    }

    /// The credentials.
    ///
    /// # Errors
    ///
    /// There are none, and a source could not be used.
    pub fn usable(self) -> Result<Vec<RegistryAuth>, Failure> {
        match self.unavailable().filter(|_| self.auths.is_empty()) {
            Some(failure) => Err(failure),
            None => Ok(self.auths),
        }
    }

    /// One failure for all problems. It is transient if one of them is: a retry may find credentials.
    #[must_use]
    pub fn unavailable(&self) -> Option<Failure> {
        let failures = || self.problems.iter().map(|problem| &problem.failure);
        let transient = failures().find(|failure| failure.class().is_transient());
        let first = transient.or(failures().next())?;
        let retry_after = failures().filter_map(|failure| failure.retry_after).max();
        let texts: Vec<&str> = failures().map(|failure| &*failure.message).collect();
        Some(Failure::new(first.reason, texts.join("; ")).with_retry_after(retry_after))
    }

    /// The sources that were named for the image, are missing or malformed, and were not needed because the image
    /// could be pulled without them. One that can't be read for now is left out.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let named = self.problems.iter().filter(|problem| problem.named);
        let lasting = named.filter(|problem| !problem.failure.class().is_transient());
        let texts: Vec<&str> = lasting.map(|problem| &*problem.failure.message).collect();
        let text = plain_text(&texts.join("; "), WARNING_MAX);
        Some(text).filter(|text| !text.is_empty())
    }

    /// Makes an attempt with each set of credentials in turn until one is accepted, as the kubelet does. Without
    /// any, the attempt is anonymous: the image may be public.
    ///
    /// # Errors
    ///
    /// The failure of the attempt that says most, followed by the sources that could not be used.
    pub async fn attempt<T, F>(
        self,
        mut with: impl FnMut(Option<RegistryAuth>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let unavailable = self.unavailable();
        let known = self.auths.len();
        let mut attempts: Vec<_> = self.auths.into_iter().map(Some).collect();
        if attempts.is_empty() {
            attempts.push(None);
        }
        let mut last: Option<Failure> = None;
        for auth in attempts {
            match with(auth).await {
                Ok(done) => return Ok(done),
                Err(failure) if depends_on_credentials(&failure) => {
                    // A delay that a registry asks of one account is no reason to wait with others.
                    let replaces = |last: &Failure| last.class() == ErrorClass::Throttled;
                    if last.as_ref().is_none_or(replaces)
                        || failure.class() != ErrorClass::Throttled
                    {
                        last = Some(failure);
                    }
                }
                Err(failure) => return Err(explained(failure, known, unavailable)),
            }
        }
        let last = last.unwrap_or_else(|| Failure::new(Reason::Unknown, "no attempt was made"));
        Err(explained(last, known, unavailable))
    }
}

/// Longest text about credentials that could not be used, in characters.
const UNAVAILABLE_MAX: usize = 150;

/// Longest warning about credentials that could not be used, in characters.
const WARNING_MAX: usize = 400;

/// Whether an attempt may succeed with other credentials. Some registries answer "not found" to clients
/// without access, throttle by account, or fail for one account only.
fn depends_on_credentials(failure: &Failure) -> bool {
    let by_account = [
        ErrorClass::Unauthorized,
        ErrorClass::NotFound,
        ErrorClass::Throttled,
    ];
    by_account.contains(&failure.class()) || failure.reason == Reason::RegistryError
}

/// The failure of attempts with `known` sets of credentials, or of an anonymous one. `unavailable`: the sources
/// that could not be used.
fn explained(last: Failure, known: usize, unavailable: Option<Failure>) -> Failure {
    let Some(unavailable) = unavailable else {
        if known > 1 && last.class() == ErrorClass::Unauthorized {
            let message = format!("none of {known} sets of credentials was accepted: {last}");
            return Failure { message, ..last };
        }
        return last;
    };
    // The registry's text comes first, and the other one is short: long messages are cut at their end.
    let unused = plain_text(&unavailable.message, UNAVAILABLE_MAX);
    let tried = match known {
        0 => "tried without credentials",
        _ => "other credentials could not be used",
    };
    let message = format!("{last} ({tried}: {unused})");
    // A transient failure to read them is retried soon.
    if depends_on_credentials(&last) && unavailable.class().is_transient() {
        return Failure {
            message,
            ..unavailable
        };
    }
    // Any other needs an operator, unless the registry gave an answer that credentials don't change.
    let reason = match last.class() {
        ErrorClass::Unauthorized if known == 0 => Reason::CredentialsUnavailable,
        _ => last.reason,
    };
    Failure {
        reason,
        message,
        ..last
    }
}

/// A source of registry credentials, which is read before every pull.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Every set of credentials that matches the image, and the sources that could not be used.
    async fn resolve(&self, request: &CredentialsRequest) -> FoundCredentials;
}

/// No credentials: every pull is anonymous.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn resolve(&self, _request: &CredentialsRequest) -> FoundCredentials {
        FoundCredentials::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_and_missing_images_use_other_credentials() {
        for (reason, expected) in [
            (Reason::Unauthorized, true),
            (Reason::CredentialsUnavailable, true),
            (Reason::ImageNotFound, true),
            (Reason::PlatformNotFound, true),
            (Reason::TooManyRequests, true),
            (Reason::RegistryError, true),
            (Reason::ConnectionFailed, false),
            (Reason::DiskFull, false),
            (Reason::InvalidImage, false),
            (Reason::RuntimeUnavailable, false),
            (Reason::Unknown, false),
        ] {
            let failure = Failure::new(reason, "");
            assert_eq!(depends_on_credentials(&failure), expected, "{reason}");
        }
    }

    #[test]
    fn a_failure_names_reason_and_unused_credentials() {
        use Reason::{
            ConnectionFailed, CredentialsUnavailable, ImageNotFound, InvalidImage, Unauthorized,
        };
        for (last, known, unavailable, reason, message) in [
            (Unauthorized, 0, None, Unauthorized, "denied"),
            (Unauthorized, 1, None, Unauthorized, "denied"),
            (
                Unauthorized,
                3,
                None,
                Unauthorized,
                "none of 3 sets of credentials was accepted: denied",
            ),
            (ImageNotFound, 3, None, ImageNotFound, "denied"),
            (
                Unauthorized,
                0,
                Some(Unauthorized),
                CredentialsUnavailable,
                "denied (tried without credentials: no secret)",
            ),
            (
                ImageNotFound,
                0,
                Some(Unauthorized),
                ImageNotFound,
                "denied (tried without credentials: no secret)",
            ),
            (
                ImageNotFound,
                0,
                Some(ConnectionFailed),
                ConnectionFailed,
                "denied (tried without credentials: no secret)",
            ),
            (
                ConnectionFailed,
                0,
                Some(CredentialsUnavailable),
                ConnectionFailed,
                "denied (tried without credentials: no secret)",
            ),
            (
                InvalidImage,
                0,
                Some(ConnectionFailed),
                InvalidImage,
                "denied (tried without credentials: no secret)",
            ),
            (
                Unauthorized,
                1,
                Some(CredentialsUnavailable),
                Unauthorized,
                "denied (other credentials could not be used: no secret)",
            ),
            (
                Unauthorized,
                1,
                Some(ConnectionFailed),
                ConnectionFailed,
                "denied (other credentials could not be used: no secret)",
            ),
        ] {
            let last = Failure::new(last, "denied");
            let unavailable = unavailable.map(|reason| Failure::new(reason, "no secret"));
            let found = explained(last, known, unavailable);
            assert_eq!((found.reason, found.message.as_str()), (reason, message));
        }
    }
}
