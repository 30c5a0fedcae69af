//! Several sources of credentials as one.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use fledged_core::port::{Credentials, CredentialsRequest, FoundCredentials};
use futures_util::future::join_all;

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
    async fn resolve(&self, request: &CredentialsRequest) -> FoundCredentials {
        // At the same time, so that one that takes its whole limit leaves the others theirs.
        let sources = self.0.iter().map(|source| source.resolve(request));
        let mut all = FoundCredentials::default();
        for found in join_all(sources).await {
            all.extend(found);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fledged_core::error::{Failure, Reason};
    use fledged_core::port::RegistryAuth;

    use super::*;

    struct Source(Result<&'static str, (Reason, &'static str)>);

    #[async_trait]
    impl Credentials for Source {
        async fn resolve(&self, _: &CredentialsRequest) -> FoundCredentials {
            match self.0 {
                Ok("") => FoundCredentials::default(),
                Ok(user) => vec![RegistryAuth::basic(user, "p")].into(),
                Err((reason, text)) => {
                    let failure = Failure::new(reason, text);
                    failure
                        .with_retry_after(Some(Duration::from_secs(3)))
                        .into()
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
        let auths = union.resolve(&request).await.usable()?;
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
    async fn a_refusal_names_the_source_that_failed() {
        let sources: [Arc<dyn Credentials>; 2] = [
            Arc::new(Source(Ok("secret"))),
            Arc::new(Source(Err(UNAVAILABLE))),
        ];
        let request = CredentialsRequest::new("registry.example/app".parse().unwrap());
        let found = UnionCredentials::new(sources).resolve(&request).await;
        let refuse = |_| std::future::ready(Err(Failure::new(Reason::Unauthorized, "denied")));
        let failure = found.attempt::<(), _>(refuse).await.unwrap_err();
        assert_eq!(failure.reason, Reason::Unauthorized);
        assert_eq!(
            failure.message,
            "denied (other credentials could not be used: plugin failed)"
        );
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
