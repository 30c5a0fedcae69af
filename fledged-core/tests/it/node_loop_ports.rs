//! The node loop's calls of the ports: their order and their credentials.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, ImagePhase, ImageRef, ImageReport, ObjectName,
};
use fledged_core::port::{
    FoundCredentials, ImageId, MockCredentials, MockImageRuntime, RegistryAuth, Removal,
    RemovalScope, RuntimeImage, RuntimeInfo,
};
use fledged_core::runner::{NodeLoop, NodeObserver, PullOutcome};
use fledged_core::sim::SimClock;
use fledged_core::warmer::{Warmer, WarmerConfig};
use mockall::Sequence;

fn mk_ref(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn mk_image(text: &str) -> RuntimeImage {
    RuntimeImage::new(text, [mk_ref(text)]).with_size(ByteSize::new(1))
}

fn mk_auth(username: &str) -> RegistryAuth {
    RegistryAuth::Basic {
        username: username.to_owned(),
        password: "hunter2".into(),
    }
}

fn mk_info() -> RuntimeInfo {
    RuntimeInfo::new("mock", "1", RemovalScope::Image).with_api_version("v1")
}

/// Returns a runtime without images.
fn mk_empty() -> MockImageRuntime {
    let mut runtime = MockImageRuntime::new();
    runtime.expect_info().times(1).returning(|| Ok(mk_info()));
    runtime.expect_list().returning(|| Ok(Vec::new()));
    runtime
}

/// Returns a runtime that lists the images in `held`.
fn mk_holding(held: &Arc<Mutex<Vec<RuntimeImage>>>) -> MockImageRuntime {
    let mut runtime = MockImageRuntime::new();
    let held = Arc::clone(held);
    runtime.expect_info().returning(|| Ok(mk_info()));
    runtime
        .expect_list()
        .returning(move || Ok(held.lock().unwrap().clone()));
    runtime
}

/// The reasons for which a registry refuses users; all other users are accepted.
type Answers = &'static [(&'static str, Reason)];

/// Pulls `app` with these credentials and answers. Returns the report and the users that were tried.
fn pull(
    credentials: Result<Vec<&'static str>, Failure>,
    answers: Answers,
) -> (ImageReport, Vec<String>) {
    let tried = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&tried);
    let held = Arc::new(Mutex::new(Vec::new()));
    let store = Arc::clone(&held);
    let mut runtime = mk_holding(&held);
    runtime.expect_pull().returning(move |request| {
        let user = match &request.auth {
            None => "anonymous",
            Some(RegistryAuth::Basic { username, .. }) => username,
            Some(other) => panic!("{other:?}"),
        };
        seen.lock().unwrap().push(user.to_owned());
        match answers.iter().find(|(name, _)| *name == user) {
            None => {
                store.lock().unwrap().push(mk_image("app"));
                Ok(mk_image("app"))
            }
            Some((_, reason)) => Err(Failure::new(*reason, format!("{reason} for {user}"))),
        }
    });
    let mut store = MockCredentials::new();
    let found: FoundCredentials = match credentials {
        Ok(users) => users.into_iter().map(mk_auth).collect::<Vec<_>>().into(),
        Err(failure) => failure.into(),
    };
    store.expect_resolve().returning(move |_| found.clone());
    let (report, ends) = settle_observed(runtime, store, AssignedImage::present(mk_ref("app")));
    // All attempts with different credentials are one pull, with the reason that the report has.
    assert_eq!(u32::try_from(ends.len()), Ok(report.attempts), "{ends:?}");
    let failed = report.reason.filter(|_| report.phase != ImagePhase::Cached);
    assert_eq!(ends.last(), Some(&failed));
    let tried = tried.lock().unwrap().clone();
    (report, tried)
}

/// Records how pulls ended: with the reason of a failure, if it was one.
#[derive(Default)]
struct Ends(Mutex<Vec<Option<Reason>>>);

impl NodeObserver for Ends {
    fn pull_ended(&self, image: &ImageRef, outcome: PullOutcome<'_>, _took: Duration) {
        assert_eq!(*image, mk_ref("app"));
        let mut ends = self.0.lock().unwrap();
        ends.push(match outcome {
            PullOutcome::Succeeded(_) => None,
            PullOutcome::Failed(reason) => Some(reason),
            other => panic!("{other:?}"),
        });
    }
}

fn settle(runtime: MockImageRuntime, store: MockCredentials, image: AssignedImage) -> ImageReport {
    settle_observed(runtime, store, image).0
}

/// Returns the report, and how each pull ended.
fn settle_observed(
    runtime: MockImageRuntime,
    store: MockCredentials,
    image: AssignedImage,
) -> (ImageReport, Vec<Option<Reason>>) {
    let ends = Arc::new(Ends::default());
    let observer = Arc::clone(&ends);
    let clock = SimClock::new();
    let mut node = NodeLoop::new(
        Warmer::new(WarmerConfig::default(), 1),
        Arc::new(runtime),
        Arc::new(clock.clone()),
    )
    .with_credentials(Arc::new(store))
    .with_observer(observer);
    let assignment = Assignment::new(1, vec![image]);
    let mut report = clock.block_on(node.settle(assignment)).unwrap();
    let report = report.images.remove(0);
    let ends = ends.0.lock().unwrap().clone();
    (report, ends)
}

#[test]
fn without_credentials_a_pull_is_anonymous() {
    let (report, tried) = pull(Ok(vec![]), &[]);
    assert_eq!(report.phase, ImagePhase::Cached);
    assert_eq!(tried, ["anonymous"]);
}

#[test]
fn credentials_are_tried_in_turn_until_one_is_accepted() {
    let answers = &[
        ("old", Reason::Unauthorized),
        ("blind", Reason::ImageNotFound),
    ];
    let (report, tried) = pull(Ok(vec!["old", "blind", "good", "unused"]), answers);
    assert_eq!(report.phase, ImagePhase::Cached);
    assert_eq!(report.attempts, 1);
    assert_eq!(tried, ["old", "blind", "good"]);
}

#[test]
fn credentials_that_are_all_refused_are_counted() {
    let answers = &[("one", Reason::Unauthorized), ("two", Reason::Unauthorized)];
    let (report, tried) = pull(Ok(vec!["one", "two"]), answers);
    assert_eq!(tried, ["one", "two"]);
    assert_eq!(report.phase, ImagePhase::Failed);
    assert_eq!(report.reason, Some(Reason::Unauthorized));
    let message = report.message.unwrap();
    assert_eq!(
        message,
        "none of 2 sets of credentials was accepted: Unauthorized for two"
    );
    assert!(!message.contains("hunter2"));

    let (report, _) = pull(Ok(vec!["one"]), answers);
    assert_eq!(report.message.unwrap(), "Unauthorized for one");
}

#[test]
fn image_not_found_does_not_mention_credentials() {
    let answers = &[
        ("one", Reason::ImageNotFound),
        ("two", Reason::ImageNotFound),
    ];
    let (report, _) = pull(Ok(vec!["one", "two"]), answers);
    assert_eq!(report.reason, Some(Reason::ImageNotFound));
    assert_eq!(report.message.unwrap(), "ImageNotFound for two");
}

#[test]
fn other_failures_try_no_further_credentials() {
    let answers: Answers = &[("one", Reason::InvalidImage)];
    let (report, tried) = pull(Ok(vec!["one", "two"]), answers);
    assert_eq!(tried, ["one"]);
    assert_eq!(report.reason, Some(Reason::InvalidImage));
}

#[test]
fn failures_of_one_account_leave_the_next_one() {
    for reason in [Reason::TooManyRequests, Reason::RegistryError] {
        let answers: Answers = match reason {
            Reason::TooManyRequests => &[("one", Reason::TooManyRequests)],
            _ => &[("one", Reason::RegistryError)],
        };
        let (report, tried) = pull(Ok(vec!["one", "two"]), answers);
        assert_eq!(tried, ["one", "two"]);
        assert_eq!(report.phase, ImagePhase::Cached);
    }
}

#[test]
fn a_public_image_is_pulled_without_readable_credentials() {
    let unavailable = || {
        Failure::new(
            Reason::CredentialsUnavailable,
            "secret default/key: not found",
        )
    };
    let (report, tried) = pull(Err(unavailable()), &[]);
    assert_eq!(tried, ["anonymous"]);
    assert_eq!(report.phase, ImagePhase::Cached);
    assert_eq!(report.reason, Some(Reason::CredentialsUnavailable));
    assert_eq!(report.message.unwrap(), "secret default/key: not found");
    // One that can't be read for now may exist.
    let unreachable = Failure::new(Reason::ConnectionFailed, "no answer");
    let (report, _) = pull(Err(unreachable), &[]);
    assert_eq!((report.phase, report.message), (ImagePhase::Cached, None));

    let (report, _) = pull(Err(unavailable()), &[("anonymous", Reason::Unauthorized)]);
    assert_eq!(report.reason, Some(Reason::CredentialsUnavailable));
    assert_eq!(
        report.message.unwrap(),
        "Unauthorized for anonymous (tried without credentials: secret default/key: not found)"
    );

    let (report, _) = pull(Err(unavailable()), &[("anonymous", Reason::InvalidImage)]);
    assert_eq!(report.reason, Some(Reason::InvalidImage));
}

#[test]
fn unavailable_credentials_are_retried_within_the_round() {
    let unreachable = Failure::new(Reason::ConnectionFailed, "secret default/key: no answer");
    let (report, tried) = pull(Err(unreachable), &[("anonymous", Reason::Unauthorized)]);
    assert!(tried.len() > 1, "{tried:?}");
    assert_eq!(report.reason, Some(Reason::ConnectionFailed));
    assert_eq!(
        report.message.unwrap(),
        "Unauthorized for anonymous (tried without credentials: secret default/key: no answer)"
    );
}

#[test]
fn a_delay_for_anonymous_requests_is_kept_and_ends_with_readable_credentials() {
    const ASKED: Duration = Duration::from_secs(200);
    // When the Secret can be read, and the users that are tried until then, and after.
    for (readable_from, expected) in [
        (30, vec!["anonymous", "user"]),
        (3_600, vec!["anonymous", "anonymous"]),
    ] {
        let clock = SimClock::new();
        let tried = Arc::new(Mutex::new(Vec::new()));
        let held = Arc::new(Mutex::new(Vec::new()));
        let mut runtime = mk_holding(&held);
        let (seen, now) = (Arc::clone(&tried), clock.clone());
        runtime.expect_pull().returning(move |request| {
            let user = request.auth.map_or("anonymous", |_| "user");
            seen.lock().unwrap().push((user, now.elapsed()));
            if user == "user" {
                held.lock().unwrap().push(mk_image("app"));
                return Ok(mk_image("app"));
            }
            let failure = Failure::new(Reason::TooManyRequests, "429");
            Err(failure.with_retry_after(Some(ASKED)))
        });
        let mut store = MockCredentials::new();
        let now = clock.clone();
        store.expect_resolve().returning(move |_| {
            if now.elapsed() < Duration::from_secs(readable_from) {
                return Failure::new(Reason::ConnectionFailed, "no answer").into();
            }
            vec![mk_auth("user")].into()
        });
        let mut node = NodeLoop::new(
            Warmer::new(WarmerConfig::default(), 1),
            Arc::new(runtime),
            Arc::new(clock.clone()),
        )
        .with_credentials(Arc::new(store));
        let assignment = Assignment::new(1, vec![AssignedImage::present(mk_ref("app"))]);
        clock.block_on(node.settle(assignment)).unwrap();
        let tried = tried.lock().unwrap().clone();
        let users: Vec<&str> = tried.iter().map(|(user, _)| *user).collect();
        assert_eq!(users, expected, "{tried:?}");
        let between = tried[1].1 - tried[0].1;
        assert_eq!(between >= ASKED, users[1] == "anonymous", "{tried:?}");
    }
}

#[test]
fn credentials_are_requested_for_the_assigned_secrets() {
    let secret = ObjectName::new("ns", "key");
    let image = AssignedImage::present(mk_ref("app"))
        .with_pull_secrets(vec![secret.clone()])
        .with_service_accounts(vec![secret.clone()]);
    let held = Arc::new(Mutex::new(Vec::new()));
    let mut runtime = mk_holding(&held);
    runtime.expect_pull().times(1).returning(move |_| {
        held.lock().unwrap().push(mk_image("app"));
        Ok(mk_image("app"))
    });
    let mut store = MockCredentials::new();
    let expected = vec![secret];
    store
        .expect_resolve()
        .times(1)
        .withf(move |r| {
            // Half of the deadline.
            let limit = Some(Duration::from_secs(150));
            r.image == mk_ref("app")
                && r.pull_secrets == expected
                && r.service_accounts == expected
                && r.limit == limit
        })
        .returning(|_| FoundCredentials::default());
    assert_eq!(settle(runtime, store, image).phase, ImagePhase::Cached);
}

#[test]
fn usage_is_read_before_the_list_and_info_once() {
    let mut order = Sequence::new();
    let mut runtime = MockImageRuntime::new();
    runtime
        .expect_info()
        .times(1)
        .in_sequence(&mut order)
        .returning(|| Ok(mk_info()));
    let used = || Ok(vec![ImageId("app".to_owned()).into()]);
    runtime
        .expect_in_use()
        .times(1)
        .in_sequence(&mut order)
        .returning(used);
    runtime
        .expect_list()
        .times(1)
        .in_sequence(&mut order)
        .returning(|| Ok(vec![mk_image("app")]));
    let report = settle(
        runtime,
        MockCredentials::new(),
        AssignedImage::absent(mk_ref("app")),
    );
    assert_eq!(report.phase, ImagePhase::InUse);
}

#[test]
fn an_image_is_removed_by_reference() {
    let mut runtime = MockImageRuntime::new();
    runtime.expect_info().times(1).returning(|| Ok(mk_info()));
    runtime.expect_in_use().returning(|| Ok(Vec::new()));
    runtime
        .expect_list()
        .returning(|| Ok(vec![mk_image("app")]));
    runtime
        .expect_remove()
        .times(1)
        .withf(|image| *image == mk_ref("app"))
        .returning(|_| Ok(Removal::Removed));
    // A failure changes nothing.
    runtime
        .expect_discard_unfinished()
        .times(1)
        .withf(|image| *image == mk_ref("app"))
        .returning(|_| Err(Failure::new(Reason::Unknown, "not now")));
    let report = settle(
        runtime,
        MockCredentials::new(),
        AssignedImage::absent(mk_ref("app")),
    );
    assert_eq!(report.phase, ImagePhase::Removed);
}

#[test]
fn remains_of_an_image_that_is_not_present_are_discarded() {
    let mut runtime = mk_empty();
    runtime.expect_in_use().returning(|| Ok(Vec::new()));
    runtime
        .expect_discard_unfinished()
        .times(1)
        .withf(|image| *image == mk_ref("app"))
        .returning(|_| Ok(()));
    let report = settle(
        runtime,
        MockCredentials::new(),
        AssignedImage::absent(mk_ref("app")),
    );
    assert_eq!(report.phase, ImagePhase::Removed);
}

#[test]
fn a_reading_fails_if_usage_cannot_be_read() {
    let mut runtime = MockImageRuntime::new();
    runtime.expect_info().times(1..).returning(|| Ok(mk_info()));
    let unsupported = || Failure::new(Reason::RuntimeUnsupported, "no containers here");
    runtime
        .expect_in_use()
        .returning(move || Err(unsupported()));
    runtime.expect_list().never();
    let report = settle(
        runtime,
        MockCredentials::new(),
        AssignedImage::absent(mk_ref("app")),
    );
    assert_eq!(report.reason, Some(Reason::RuntimeUnsupported));
    assert_eq!(report.message.unwrap(), "no containers here");
}

#[test]
fn credentials_are_never_shown() {
    for auth in [
        mk_auth("alice"),
        RegistryAuth::IdentityToken("hunter2".into()),
        RegistryAuth::RegistryToken("hunter2".into()),
    ] {
        assert!(!format!("{auth:?}").contains("hunter2"), "{auth:?}");
    }
}

#[test]
fn a_pulled_image_must_be_listed_by_the_runtime() {
    let mut runtime = mk_empty();
    runtime
        .expect_pull()
        .times(2)
        .returning(|_| Ok(mk_image("app")));
    let mut store = MockCredentials::new();
    store
        .expect_resolve()
        .returning(|_| FoundCredentials::default());
    let report = settle(runtime, store, AssignedImage::present(mk_ref("app")));
    assert_eq!(report.phase, ImagePhase::Failed);
    assert_eq!(report.reason, Some(Reason::Evicted));
}
