//! Several sources of credentials as one.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::port::{Credentials, CredentialsRequest, RegistryAuth};

/// Several sources of credentials, each tried after those before it.
///
/// The kubelet tries pull secrets first, then what the node itself has: its docker configuration, then its
/// credential-provider plugins (`makeLookupPullCredentialsFunc` in `pkg/kubelet/images`). Entries of different
/// sources are not sorted among each other.
#[derive(Clone, Default)]
pub struct UnionCredentials(Vec<Arc<dyn Credentials>>);

impl fmt::Debug for UnionCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UnionCredentials")
            .field(&self.0.len())
            .finish()
    }
}

impl UnionCredentials {
    /// These sources, in the order to try them.
    #[must_use]
    pub fn new(sources: impl IntoIterator<Item = Arc<dyn Credentials>>) -> Self {
        Self(sources.into_iter().collect())
    }
}

#[async_trait]
impl Credentials for UnionCredentials {
    async fn resolve(&self, request: &CredentialsRequest) -> Result<Vec<RegistryAuth>, Failure> {
        let (mut auths, mut failures) = (Vec::new(), Vec::new());
        for source in &self.0 {
            match source.resolve(request).await {
                Ok(found) => auths.extend(found),
                Err(failure) => failures.push(failure),
            }
        }
        if !auths.is_empty() || failures.is_empty() {
            return Ok(auths);
        }
        Err(merged(failures))
    }
}

/// One failure for all. It is transient if one of them is: a retry may find credentials.
fn merged(failures: Vec<Failure>) -> Failure {
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let retry_after = failures
        .iter()
        .filter_map(|failure| failure.retry_after)
        .max();
    let transient = failures
        .iter()
        .find(|failure| failure.class().is_transient());
    let reason = transient
        .or(failures.first())
        .map_or(Reason::Unknown, |failure| failure.reason);
    Failure::new(reason, texts.join("; ")).with_retry_after(retry_after)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Source(Result<&'static str, (Reason, &'static str)>);

    #[async_trait]
    impl Credentials for Source {
        async fn resolve(&self, _: &CredentialsRequest) -> Result<Vec<RegistryAuth>, Failure> {
            match self.0 {
                Ok("") => Ok(Vec::new()),
                Ok(user) => Ok(vec![RegistryAuth::basic(user, "p")]),
                Err((reason, text)) => {
                    Err(Failure::new(reason, text).with_retry_after(Some(Duration::from_secs(3))))
                }
            }
        }
    }

    async fn resolve(
        sources: Vec<Result<&'static str, (Reason, &'static str)>>,
    ) -> Result<Vec<String>, Failure> {
        let sources = sources.into_iter().map(|of| Arc::new(Source(of)) as Arc<_>);
        let union = UnionCredentials::new(sources.collect::<Vec<_>>());
        let request = CredentialsRequest::new("registry.example/app".parse().unwrap());
        let user = |auth| match auth {
            RegistryAuth::Basic { username, .. } => username,
            other => panic!("{other:?}"),
        };
        let auths = union.resolve(&request).await?;
        Ok(auths.into_iter().map(user).collect())
    }

    const UNAVAILABLE: (Reason, &str) = (Reason::CredentialsUnavailable, "plugin failed");
    const DOWN: (Reason, &str) = (Reason::ConnectionFailed, "server down");

    #[tokio::test]
    async fn sources_are_tried_in_order() {
        let users = resolve(vec![Ok("secret"), Ok(""), Ok("plugin")]).await;
        assert_eq!(users.unwrap(), ["secret", "plugin"]);
        assert_eq!(resolve(vec![Ok("")]).await.unwrap(), [""; 0]);
    }

    #[tokio::test]
    async fn a_failed_source_does_not_affect_the_others() {
        for sources in [
            vec![Err(UNAVAILABLE), Ok("found")],
            vec![Ok("found"), Err(DOWN)],
        ] {
            assert_eq!(resolve(sources).await.unwrap(), ["found"]);
        }
    }

    #[tokio::test]
    async fn failures_are_reported_together() {
        let failure = resolve(vec![Err(UNAVAILABLE), Ok(""), Err(DOWN)])
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::ConnectionFailed);
        assert_eq!(failure.message, "plugin failed; server down");
        assert_eq!(failure.retry_after, Some(Duration::from_secs(3)));
        let failure = resolve(vec![Ok(""), Err(UNAVAILABLE)]).await.unwrap_err();
        assert_eq!(failure.reason, Reason::CredentialsUnavailable);
    }
}
