//! A node's runtime, reached by Jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use fledged_core::error::{ErrorClass, Failure, Reason};
use fledged_core::model::{AssignedImage, Digest, ImageRef};
use fledged_core::port::{
    Clock, FilesystemUsage, ImageId, ImageRuntime, PullRequest, Removal, RemovalScope,
    RuntimeImage, RuntimeInfo,
};
use tokio::sync::{mpsc, oneshot};

use super::presence::Presence;
use super::told::{Reply, Told};

/// What the loop of a node and its Jobs share.
#[derive(Debug)]
pub(super) struct Shared {
    presence: Mutex<Presence>,
    assigned: Mutex<Arc<BTreeMap<ImageRef, AssignedImage>>>,
    calls: AtomicU64,
}

impl Shared {
    pub(super) fn new(presence: Presence) -> Self {
        Self {
            presence: Mutex::new(presence),
            assigned: Mutex::default(),
            calls: AtomicU64::new(0),
        }
    }

    pub(super) fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn assigned(&self) -> Arc<BTreeMap<ImageRef, AssignedImage>> {
        let assigned = self.assigned.lock();
        Arc::clone(&assigned.unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn assign(&self, images: &[AssignedImage]) {
        self.presence().assign(images);
        let images = images.iter();
        let images = images.map(|entry| (entry.image.clone(), entry.clone()));
        let images = Arc::new(images.collect());
        *self.assigned.lock().unwrap_or_else(PoisonError::into_inner) = images;
    }

    fn call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }
}

/// Namespaces whose Jobs may pull an image: those of the caches that want it, with credentials first.
fn namespaces(entry: &AssignedImage, operator: &str) -> Vec<String> {
    let named = entry.pull_secrets.iter().chain(&entry.service_accounts);
    let with: BTreeSet<&str> = named.map(|name| name.namespace.as_str()).collect();
    let wanted = entry.wanted_by.iter().map(|id| id.namespace.as_str());
    let wanted: BTreeSet<&str> = wanted.collect();
    let first = wanted.iter().filter(|namespace| with.contains(*namespace));
    let then = wanted.iter().filter(|namespace| !with.contains(*namespace));
    let mut all: Vec<String> = first.chain(then).map(|n| (*n).to_owned()).collect();
    if all.is_empty() {
        all.push(operator.to_owned());
    }
    all
}

/// Whether it may go better in another namespace. Secrets are those of one, and some registries say "not
/// found" to strangers; a quota or a policy that is in the way of a Job is that of one, too.
fn may_be_other_elsewhere(failure: &Failure) -> bool {
    let stranger = matches!(
        failure.class(),
        ErrorClass::Unauthorized | ErrorClass::NotFound
    );
    stranger || failure.reason == Reason::Unknown
}

/// An [`ImageRuntime`] that makes the node's kubelet act.
///
/// A pull waits for the Job that pulls its image together with others; a removal for one that removes
/// everything that is to go. Nothing of a call is lost when it is dropped but the wait.
pub(super) struct JobRuntime {
    pub(super) shared: Arc<Shared>,
    pub(super) told: mpsc::UnboundedSender<Told>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) namespace: String,
}

/// A call under way; one that is dropped waits no more.
struct Call<'a> {
    id: u64,
    told: &'a mpsc::UnboundedSender<Told>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let _ = self.told.send(Told::Dropped(self.id));
    }
}

impl JobRuntime {
    async fn ask<T>(&self, told: impl FnOnce(u64, Reply<T>) -> Told) -> Result<T, Failure> {
        let call = Call {
            id: self.shared.call(),
            told: &self.told,
        };
        let (reply, answer) = oneshot::channel();
        let _ = self.told.send(told(call.id, reply));
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(
                Reason::RuntimeUnavailable,
                "Jobs of the node are not seen to any more",
            )),
        }
    }

    async fn pull_in_turn(&self, image: &ImageRef) -> Result<Option<Digest>, Failure> {
        let assigned = self.shared.assigned();
        let Some(entry) = assigned.get(image) else {
            return Err(Failure::new(Reason::Unknown, "it is not assigned any more"));
        };
        let mut result = Err(Failure::new(Reason::Unknown, "no attempt was made"));
        for namespace in namespaces(entry, &self.namespace) {
            let image = image.clone();
            let asked = self.ask(|id, reply| Told::Pull {
                id,
                image,
                namespace,
                reply,
            });
            result = asked.await;
            if !result.as_ref().is_err_and(may_be_other_elsewhere) {
                break;
            }
        }
        result
    }
}

#[async_trait]
impl ImageRuntime for JobRuntime {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        let version = env!("CARGO_PKG_VERSION");
        Ok(RuntimeInfo::new("jobs", version, RemovalScope::Image))
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        Ok(self.shared.presence().list())
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        Ok(self.shared.presence().find(image))
    }

    async fn in_use(&self) -> Result<Vec<ImageId>, Failure> {
        let now = self.clock.now();
        Ok(self.shared.presence().in_use(now))
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        let image = request.image;
        let digest = self.pull_in_turn(&image).await?;
        let found = self.shared.presence().find(&image);
        Ok(found.unwrap_or_else(|| {
            RuntimeImage::new(image.as_str(), [image.clone()]).with_digest(digest)
        }))
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        let asked = self.ask(|id, reply| Told::Remove {
            id,
            image: image.clone(),
            reply,
        });
        asked.await
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use fledged_core::model::CacheId;
    use fledged_core::tokio::TokioClock;

    use super::*;

    /// The namespaces that are asked for a pull, where each of them answers like this.
    async fn asked(answers: &[Result<(), Reason>]) -> (Vec<String>, bool) {
        let (told, mut hears) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(Presence::default()));
        let image: ImageRef = "a.test/app:1".parse().unwrap();
        let caches = ["a", "b", "c"].map(|namespace| CacheId::new(namespace, "cache", namespace));
        shared.assign(&[AssignedImage::present(image.clone()).with_wanted_by(caches)]);
        let runtime = JobRuntime {
            shared,
            told,
            clock: Arc::new(TokioClock::new()),
            namespace: "operator".to_owned(),
        };
        let answering = async {
            let mut namespaces = Vec::new();
            for answer in answers {
                while let Some(told) = hears.recv().await {
                    if let Told::Pull {
                        namespace, reply, ..
                    } = told
                    {
                        namespaces.push(namespace);
                        let answer = answer.map(|()| None);
                        let _ = reply.send(answer.map_err(|reason| Failure::new(reason, "no")));
                        break;
                    }
                }
            }
            namespaces
        };
        let (result, namespaces) = tokio::join!(runtime.pull_in_turn(&image), answering);
        (namespaces, result.is_ok())
    }

    #[tokio::test]
    async fn what_is_one_namespaces_own_is_tried_in_the_next() {
        let (namespaces, pulled) =
            asked(&[Err(Reason::Unknown), Err(Reason::Unauthorized), Ok(())]).await;
        assert_eq!((namespaces.join(" "), pulled), ("a b c".to_owned(), true));
        let (namespaces, pulled) = asked(&[Err(Reason::ConnectionFailed)]).await;
        assert_eq!((namespaces.join(" "), pulled), ("a".to_owned(), false));
    }
}
