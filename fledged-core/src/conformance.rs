//! A conformance suite for implementations of [`ImageRuntime`].
//!
//! [`check`] runs every behaviour that the loops rely on against a runtime and the images of a registry
//! that the runtime can reach, and returns what it violates. It pulls and removes those images, so run it
//! on a store of its own.
//!
//! ```
//! use fledged_core::conformance::{self, Images};
//! use fledged_core::model::ByteSize;
//! use fledged_core::sim::{SimClock, SimImage, SimRegistry, SimRuntime};
//!
//! let app = SimImage::new("app", &[("layer", ByteSize::new(1_000))]);
//! let registry = SimRegistry::new()
//!     .with("registry.example/app:1", app.clone())
//!     .with("registry.example/copy:1", app)
//!     .with("registry.example/other:1", SimImage::new("other", &[("more", ByteSize::new(10))]));
//! let clock = SimClock::new();
//! let runtime = SimRuntime::new(clock.clone(), registry, 1);
//!
//! let images = Images::new(
//!     "registry.example/app:1".parse().unwrap(),
//!     "registry.example/copy:1".parse().unwrap(),
//!     "registry.example/other:1".parse().unwrap(),
//!     "registry.example/missing:1".parse().unwrap(),
//! );
//! let report = clock
//!     .block_on(conformance::check(&runtime, &clock, &images))
//!     .unwrap();
//! assert!(report.violations.is_empty(), "{report}");
//! ```

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, join, join3, select};

use crate::error::Reason;
use crate::model::ImageRef;
use crate::port::{
    Clock, ImageRuntime, ProgressSink, PullProgress, PullRequest, RegistryAuth, Removal,
    RuntimeImage,
};

/// Time after which the suite drops a pull of [`Images::slow`].
const DROP_AFTER: Duration = Duration::from_millis(500);

/// The images that the suite pulls. Their registry has to serve them until the suite ends.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Images {
    /// A public image, by tag.
    pub image: ImageRef,
    /// The same content in another repository.
    pub same_content: ImageRef,
    /// A public image with other content.
    pub other: ImageRef,
    /// A reference that the registry does not have.
    pub missing: ImageRef,
    /// `image` by digest. Without it, pulls by digest are not checked.
    pub by_digest: Option<ImageRef>,
    /// An image that requires credentials. Without it, credentials are not checked.
    pub private: Option<PrivateImage>,
    /// An image whose pull takes several seconds. Without it, dropped pulls are not checked.
    pub slow: Option<ImageRef>,
    /// A reference to a registry that refuses connections. Without it, such registries are not checked.
    pub unreachable: Option<ImageRef>,
}

impl Images {
    /// The images that every run needs.
    #[must_use]
    pub fn new(
        image: ImageRef,
        same_content: ImageRef,
        other: ImageRef,
        missing: ImageRef,
    ) -> Self {
        Self {
            image,
            same_content,
            other,
            missing,
            by_digest: None,
            private: None,
            slow: None,
            unreachable: None,
        }
    }

    fn all(&self) -> impl Iterator<Item = &ImageRef> {
        [&self.image, &self.same_content, &self.other, &self.missing]
            .into_iter()
            .chain(&self.by_digest)
            .chain(self.private.as_ref().map(|private| &private.image))
            .chain(&self.slow)
            .chain(&self.unreachable)
    }
}

/// An image that requires credentials.
#[derive(Debug, Clone)]
pub struct PrivateImage {
    /// The image.
    pub image: ImageRef,
    /// Credentials that the registry accepts.
    pub accepted: RegistryAuth,
    /// Credentials that the registry refuses.
    pub refused: RegistryAuth,
}

/// The result of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Behaviours that hold.
    pub passed: Vec<&'static str>,
    /// Behaviours that the given [`Images`] do not let the suite check.
    pub not_checked: Vec<&'static str>,
    /// Behaviours that do not hold.
    pub violations: Vec<Violation>,
}

/// A behaviour that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The behaviour, as a sentence.
    pub behaviour: &'static str,
    /// What was observed instead.
    pub observed: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.violations {
            writeln!(f, "violated: {}", violation.behaviour)?;
            writeln!(f, "    {}", violation.observed)?;
        }
        for behaviour in &self.not_checked {
            writeln!(f, "not checked: {behaviour}")?;
        }
        write!(f, "{} behaviours hold", self.passed.len())
    }
}

/// Runs every behaviour against `runtime`, one after another, each on a store without the given images.
///
/// `clock` limits nothing; it only decides when a pull of [`Images::slow`] is dropped.
pub async fn check(runtime: &dyn ImageRuntime, clock: &dyn Clock, images: &Images) -> Report {
    let suite = Suite {
        runtime,
        clock,
        images,
    };
    let mut report = Report::default();
    for (behaviour, run) in BEHAVIOURS {
        let outcome = match suite.clean().await {
            Ok(()) => run(&suite).await,
            Err(observed) => Err(observed),
        };
        match outcome {
            Ok(Checked::Yes) => report.passed.push(behaviour),
            Ok(Checked::ImageNotGiven) => report.not_checked.push(behaviour),
            Err(observed) => report.violations.push(Violation {
                behaviour,
                observed,
            }),
        }
    }
    // The images were the suite's own. A failure to remove them is reported by the behaviours above.
    let _ = suite.clean().await;
    report
}

/// Whether a behaviour could be checked with the given images.
enum Checked {
    Yes,
    ImageNotGiven,
}

type Outcome = Result<Checked, String>;
type Behaviour = for<'a> fn(&'a Suite<'a>) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

const BEHAVIOURS: &[(&str, Behaviour)] = &[
    ("info names the runtime", |s| Box::pin(s.info())),
    ("an image that was never pulled is absent", |s| {
        Box::pin(s.absent())
    }),
    ("a pulled image is listed as the pull returned it", |s| {
        Box::pin(s.pulled())
    }),
    ("a second pull of an image succeeds", |s| {
        Box::pin(s.second_pull())
    }),
    ("an image pulled by digest is listed by digest", |s| {
        Box::pin(s.by_digest())
    }),
    ("two names of one image have one identifier", |s| {
        Box::pin(s.two_names())
    }),
    ("pulls at the same time all succeed", |s| {
        Box::pin(s.concurrent_pulls())
    }),
    ("progress never exceeds the known total", |s| {
        Box::pin(s.progress())
    }),
    ("a removed image is absent, a second removal too", |s| {
        Box::pin(s.removed())
    }),
    ("a removal takes along the names of its scope", |s| {
        Box::pin(s.removal_scope())
    }),
    ("an image without containers is not in use", |s| {
        Box::pin(s.not_in_use())
    }),
    ("a missing image fails with ImageNotFound", |s| {
        Box::pin(s.missing())
    }),
    ("an unreachable registry fails with ConnectionFailed", |s| {
        Box::pin(s.unreachable())
    }),
    (
        "credentials decide whether a private image is pulled",
        |s| Box::pin(s.private()),
    ),
    (
        "a dropped pull leaves no image, and the next pull succeeds",
        |s| Box::pin(s.dropped_pull()),
    ),
    ("file systems can be read", |s| Box::pin(s.filesystems())),
];

struct Suite<'a> {
    runtime: &'a dyn ImageRuntime,
    clock: &'a dyn Clock,
    images: &'a Images,
}

impl Suite<'_> {
    /// Removes all images of the suite.
    async fn clean(&self) -> Result<(), String> {
        for image in self.images.all() {
            match self.runtime.remove(image).await {
                Ok(Removal::Removed | Removal::Absent) => {}
                other => return Err(format!("removing {image} before the check: {other:?}")),
            }
        }
        Ok(())
    }

    async fn pull(&self, image: &ImageRef) -> Result<RuntimeImage, String> {
        let pulled = self.runtime.pull(PullRequest::new(image.clone())).await;
        pulled.map_err(|failure| format!("pulling {image}: {failure:?}"))
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, String> {
        let listed = self.runtime.list().await;
        listed.map_err(|failure| format!("listing images: {failure:?}"))
    }

    /// The image as `lookup` and `list` show it, which have to agree.
    async fn find(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, String> {
        let found = self.runtime.lookup(image).await;
        let found = found.map_err(|failure| format!("looking up {image}: {failure:?}"))?;
        let mut listed = self.list().await?;
        listed.retain(|held| held.references.contains(image));
        match (&found, listed.as_slice()) {
            (None, []) => Ok(None),
            (Some(one), [other]) if one.id == other.id && one.digest == other.digest => Ok(found),
            _ => Err(format!(
                "lookup of {image} returned {found:?}, the list has {listed:?}"
            )),
        }
    }

    async fn expect_present(&self, image: &ImageRef) -> Result<RuntimeImage, String> {
        let found = self.find(image).await?;
        found.ok_or_else(|| format!("{image} is absent"))
    }

    async fn expect_absent(&self, image: &ImageRef) -> Result<(), String> {
        match self.find(image).await? {
            None => Ok(()),
            Some(found) => Err(format!("{image} is present: {found:?}")),
        }
    }

    async fn expect_removal(&self, image: &ImageRef, expected: Removal) -> Result<(), String> {
        match self.runtime.remove(image).await {
            Ok(removal) if removal == expected => Ok(()),
            other => Err(format!(
                "removing {image} returned {other:?} instead of {expected:?}"
            )),
        }
    }

    /// A pull that has to fail with `expected`, and to leave the store as it was.
    async fn expect_failure(&self, request: PullRequest, expected: Reason) -> Result<(), String> {
        let image = request.image.clone();
        let before = self.list().await?;
        let failure = match self.runtime.pull(request).await {
            Ok(pulled) => return Err(format!("{image} was pulled: {pulled:?}")),
            Err(failure) => failure,
        };
        if failure.reason != expected {
            return Err(format!(
                "pulling {image} failed with {failure:?} instead of {expected}"
            ));
        }
        if failure.message.is_empty() || failure.message.chars().any(char::is_control) {
            return Err(format!(
                "the message is not one line of text: {:?}",
                failure.message
            ));
        }
        self.expect_absent(&image).await?;
        let after = self.list().await?;
        if before.len() != after.len() {
            return Err(format!(
                "the failed pull changed the list from {before:?} to {after:?}"
            ));
        }
        Ok(())
    }

    async fn info(&self) -> Outcome {
        let info = self.runtime.info().await;
        let info = info.map_err(|failure| format!("{failure:?}"))?;
        if info.name.is_empty() {
            return Err(format!("the name is empty: {info:?}"));
        }
        Ok(Checked::Yes)
    }

    async fn absent(&self) -> Outcome {
        self.expect_absent(&self.images.image).await?;
        self.expect_removal(&self.images.image, Removal::Absent)
            .await?;
        Ok(Checked::Yes)
    }

    async fn pulled(&self) -> Outcome {
        let image = &self.images.image;
        let pulled = self.pull(image).await?;
        if !pulled.references.contains(image) {
            return Err(format!("the pull returned {pulled:?} without {image}"));
        }
        let found = self.expect_present(image).await?;
        if (&found.id, &found.digest, found.size) != (&pulled.id, &pulled.digest, pulled.size) {
            return Err(format!("the pull returned {pulled:?}, the list {found:?}"));
        }
        Ok(Checked::Yes)
    }

    async fn second_pull(&self) -> Outcome {
        let first = self.pull(&self.images.image).await?;
        let second = self.pull(&self.images.image).await?;
        if first.id != second.id {
            return Err(format!(
                "the first pull returned {first:?}, the second {second:?}"
            ));
        }
        self.expect_present(&self.images.image).await?;
        Ok(Checked::Yes)
    }

    async fn by_digest(&self) -> Outcome {
        let Some(by_digest) = &self.images.by_digest else {
            return Ok(Checked::ImageNotGiven);
        };
        let pulled = self.pull(by_digest).await?;
        let found = self.expect_present(by_digest).await?;
        if found.id != pulled.id {
            return Err(format!("the pull returned {pulled:?}, the list {found:?}"));
        }
        let wanted = by_digest.digest();
        if found.digest.is_some() && found.digest.as_ref() != wanted {
            return Err(format!("{by_digest} is listed as {found:?}"));
        }
        let tagged = self.pull(&self.images.image).await?;
        if tagged.id != pulled.id {
            return Err(format!(
                "by tag it is {tagged:?}, by digest it was {pulled:?}"
            ));
        }
        Ok(Checked::Yes)
    }

    async fn two_names(&self) -> Outcome {
        let one = self.pull(&self.images.image).await?;
        let other = self.pull(&self.images.same_content).await?;
        if one.id != other.id {
            return Err(format!("{one:?} and {other:?}"));
        }
        self.expect_present(&self.images.image).await?;
        self.expect_present(&self.images.same_content).await?;
        Ok(Checked::Yes)
    }

    async fn concurrent_pulls(&self) -> Outcome {
        let (first, second, other) = join3(
            self.pull(&self.images.image),
            self.pull(&self.images.image),
            self.pull(&self.images.other),
        )
        .await;
        let (first, second) = (first?, second?);
        other?;
        if first.id != second.id {
            return Err(format!("{first:?} and {second:?}"));
        }
        let (image, other) = join(
            self.expect_present(&self.images.image),
            self.expect_present(&self.images.other),
        )
        .await;
        image?;
        other?;
        Ok(Checked::Yes)
    }

    async fn progress(&self) -> Outcome {
        let reports: Arc<Mutex<Vec<PullProgress>>> = Arc::default();
        let sink = {
            let reports = Arc::clone(&reports);
            ProgressSink::new(move |progress| {
                let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
                reports.push(progress);
            })
        };
        let request = PullRequest::new(self.images.image.clone()).with_progress(sink);
        let pulled = self.runtime.pull(request).await;
        pulled.map_err(|failure| format!("pulling {}: {failure:?}", self.images.image))?;
        let reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
        let excess = reports
            .iter()
            .find(|report| report.total.is_some_and(|total| report.done > total));
        match excess {
            Some(report) => Err(format!("{report:?}")),
            None => Ok(Checked::Yes),
        }
    }

    async fn removed(&self) -> Outcome {
        let image = &self.images.image;
        self.pull(image).await?;
        self.expect_removal(image, Removal::Removed).await?;
        self.expect_absent(image).await?;
        self.expect_removal(image, Removal::Absent).await?;
        Ok(Checked::Yes)
    }

    async fn removal_scope(&self) -> Outcome {
        let Images {
            image,
            same_content,
            other,
            ..
        } = self.images;
        for pulled in [image, same_content, other] {
            self.pull(pulled).await?;
        }
        let info = self.runtime.info().await;
        let scope = info.map_err(|failure| format!("{failure:?}"))?.removal;
        let held = self.expect_present(image).await?;
        let gone: Vec<ImageRef> = scope.takes_along(image, &held).cloned().collect();
        self.expect_removal(image, Removal::Removed).await?;
        self.expect_absent(image).await?;
        for name in held.references.iter().filter(|name| *name != image) {
            match (gone.contains(name), self.find(name).await?) {
                (true, Some(found)) => {
                    return Err(format!("{scope:?} keeps {name}: {found:?}"));
                }
                (false, None) => return Err(format!("{scope:?} removes {name}")),
                (true, None) | (false, Some(_)) => {}
            }
        }
        self.expect_present(other).await?;
        Ok(Checked::Yes)
    }

    async fn not_in_use(&self) -> Outcome {
        let pulled = self.pull(&self.images.image).await?;
        let in_use = self.runtime.in_use().await;
        let in_use = in_use.map_err(|failure| format!("{failure:?}"))?;
        if let Some(used) = in_use.iter().find(|used| used.image == pulled.id) {
            return Err(format!("{used:?}"));
        }
        Ok(Checked::Yes)
    }

    async fn missing(&self) -> Outcome {
        let request = PullRequest::new(self.images.missing.clone());
        self.expect_failure(request, Reason::ImageNotFound).await?;
        Ok(Checked::Yes)
    }

    async fn unreachable(&self) -> Outcome {
        let Some(image) = &self.images.unreachable else {
            return Ok(Checked::ImageNotGiven);
        };
        let request = PullRequest::new(image.clone());
        self.expect_failure(request, Reason::ConnectionFailed)
            .await?;
        Ok(Checked::Yes)
    }

    async fn private(&self) -> Outcome {
        let Some(private) = &self.images.private else {
            return Ok(Checked::ImageNotGiven);
        };
        let anonymous = PullRequest::new(private.image.clone());
        self.expect_failure(anonymous.clone(), Reason::Unauthorized)
            .await?;
        let refused = anonymous.clone().with_auth(private.refused.clone());
        self.expect_failure(refused, Reason::Unauthorized).await?;
        let accepted = anonymous.with_auth(private.accepted.clone());
        let pulled = self.runtime.pull(accepted).await;
        pulled.map_err(|failure| format!("with accepted credentials: {failure:?}"))?;
        self.expect_present(&private.image).await?;
        Ok(Checked::Yes)
    }

    async fn dropped_pull(&self) -> Outcome {
        let Some(slow) = &self.images.slow else {
            return Ok(Checked::ImageNotGiven);
        };
        let pull = pin!(self.pull(slow));
        match select(pull, self.clock.sleep(DROP_AFTER)).await {
            Either::Left((pulled, _)) => {
                return Err(format!("the pull ended within {DROP_AFTER:?}: {pulled:?}"));
            }
            // Drops the pull.
            Either::Right(_) => {}
        }
        self.expect_absent(slow).await?;
        self.pull(slow).await?;
        self.expect_present(slow).await?;
        Ok(Checked::Yes)
    }

    async fn filesystems(&self) -> Outcome {
        self.pull(&self.images.image).await?;
        let filesystems = self.runtime.filesystems().await;
        let filesystems = filesystems.map_err(|failure| format!("{failure:?}"))?;
        match filesystems.iter().find(|usage| usage.path.is_empty()) {
            Some(usage) => Err(format!("a file system without a path: {usage:?}")),
            None => Ok(Checked::Yes),
        }
    }
}
