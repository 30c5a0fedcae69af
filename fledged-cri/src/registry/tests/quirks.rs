//! A check and a pull of each quirk.

use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::ImageRef;
use fledged_core::port::{ImageRuntime, PullRequest, RegistryAuth};
use secrecy::SecretString;

use super::super::fake::unit::{password, platform};
use super::super::quirk::{LOGIN, Quirk, QuirkyRegistry};
use super::super::{Registry, RegistryOptions};
use crate::oci::{OciLayoutOptions, OciLayoutRuntime};

/// A quirk, and the reason with which a check and a pull fail, if they do.
const OUTCOMES: [(Quirk, Option<Reason>, Option<Reason>); 27] = {
    use Quirk as Q;
    use Reason as R;
    const fn both(quirk: Quirk, reason: Option<Reason>) -> (Quirk, Option<Reason>, Option<Reason>) {
        (quirk, reason, reason)
    }
    [
        both(Q::None, None),
        both(Q::HeadOfBlob(401), None),
        both(Q::HeadOfBlob(403), None),
        both(Q::HeadOfBlob(404), None),
        both(Q::HeadOfBlob(405), None),
        both(Q::EmptyHeadOfBlob, None),
        both(Q::BlobsElsewhere, None),
        both(Q::Ping(200), None),
        both(Q::Ping(404), None),
        both(Q::Ping(401), None),
        both(Q::TokenServer(500, "{}"), Some(R::RegistryError)),
        both(Q::TokenServer(503, ""), Some(R::RegistryError)),
        both(Q::TokenServer(429, ""), Some(R::TooManyRequests)),
        both(Q::TokenServer(401, ""), Some(R::Unauthorized)),
        both(Q::TokenServer(200, ""), Some(R::RegistryError)),
        both(
            Q::TokenServer(200, "<html>log in</html>"),
            Some(R::RegistryError),
        ),
        both(Q::HugeToken, Some(R::RegistryError)),
        both(Q::SeveralChallenges, None),
        both(Q::Moved, None),
        both(Q::ContentType("application/json"), None),
        both(Q::ContentType("text/html"), Some(R::InvalidImage)),
        both(Q::Chart, Some(R::InvalidImage)),
        both(Q::PlatformlessEntry, Some(R::PlatformNotFound)),
        // A check reads no layer.
        (Q::CutLayer, None, Some(R::ConnectionFailed)),
        both(Q::SlowLayer, None),
        both(Q::FullStorage, Some(R::RegistryError)),
        both(Q::Throttled("99999999999"), Some(R::TooManyRequests)),
    ]
};

async fn check(registry: &QuirkyRegistry, auth: Option<RegistryAuth>) -> Result<(), Failure> {
    let client = Registry::new(RegistryOptions::default()).unwrap();
    let image = registry.image().parse().unwrap();
    client.probe(&image, auth, &platform()).await.map(drop)
}

async fn pull(registry: &QuirkyRegistry, auth: Option<RegistryAuth>) -> Result<(), Failure> {
    let folder = tempfile::tempdir().unwrap();
    let options = OciLayoutOptions::default().with_platform(platform());
    let layout = Arc::new(OciLayoutRuntime::open(folder.path(), options).unwrap());
    let image: ImageRef = registry.image().parse().unwrap();
    let mut request = PullRequest::new(image.clone());
    request.auth = auth;
    let pulled = layout.pull(request).await.map(drop);
    let listed = layout.list().await.unwrap();
    assert_eq!(listed.len(), usize::from(pulled.is_ok()), "{image}");
    pulled
}

#[tokio::test]
async fn every_quirk_has_its_outcome() {
    for (quirk, of_check, of_pull) in OUTCOMES {
        for auth in [None, password("secret")] {
            let registry = QuirkyRegistry::start(quirk).await.unwrap();
            let checked = check(&registry, auth.clone()).await;
            let reason = checked.as_ref().err().map(|failure| failure.reason);
            assert_eq!(reason, of_check, "check of {quirk:?}: {checked:?}");
            let pulled = pull(&registry, auth).await;
            let reason = pulled.as_ref().err().map(|failure| failure.reason);
            assert_eq!(reason, of_pull, "pull of {quirk:?}: {pulled:?}");
            for failure in [checked.err(), pulled.err()].into_iter().flatten() {
                let asked = failure.retry_after.unwrap_or_default();
                assert!(asked <= Duration::from_secs(3600), "{quirk:?}: {failure:?}");
                assert!(failure.message.len() < 1000, "{quirk:?}: {failure}");
            }
        }
    }
}

#[tokio::test]
async fn a_full_registry_is_no_full_disk() {
    let registry = QuirkyRegistry::start(Quirk::FullStorage).await.unwrap();
    let failure = pull(&registry, None).await.unwrap_err();
    assert_ne!(failure.class(), Reason::DiskFull.class(), "{failure}");
}

#[tokio::test]
async fn a_repeated_password_is_removed_from_both() {
    let (username, password) = LOGIN;
    let auth = || {
        Some(RegistryAuth::Basic {
            username: username.to_owned(),
            password: SecretString::from(password),
        })
    };
    let registry = QuirkyRegistry::start(Quirk::EchoedPassword).await.unwrap();
    for outcome in [
        check(&registry, auth()).await,
        pull(&registry, auth()).await,
    ] {
        let failure = outcome.unwrap_err();
        assert_eq!(failure.reason, Reason::Unauthorized, "{failure}");
        assert!(failure.message.contains("ann:[redacted]"), "{failure}");
        assert!(!failure.message.contains(password), "{failure}");
    }
}
