//! What is wanted of Jobs, and what is to be done for it.

use std::time::Duration;

use fledged_core::error::{ErrorClass, Failure, Reason};
use fledged_core::model::{Digest, ImageRef};
use jiff::Timestamp;

use super::job::Kind;
use super::names::container_name;
use super::pod::Goal;
use super::spec::REMOVE;

/// What one caller waits for.
#[derive(Debug, Clone)]
pub(super) struct Want {
    pub(super) id: u64,
    pub(super) namespace: String,
    pub(super) goal: Goal,
    /// When it gives up.
    pub(super) ends: Timestamp,
    /// How long one image may take.
    pub(super) deadline: Duration,
    /// How many of these it has.
    pub(super) times: u32,
}

impl Want {
    pub(super) fn kind(&self) -> Kind {
        match self.goal {
            Goal::Begin(_) => Kind::Pull,
            Goal::End => Kind::Remove,
        }
    }

    pub(super) fn image(&self) -> Option<&ImageRef> {
        self.goal.image()
    }

    pub(super) fn container(&self) -> String {
        self.image().map_or(REMOVE.to_owned(), container_name)
    }
}

/// What was waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reached {
    /// The image was pulled.
    Pulled(Option<Digest>),
    /// The images were removed or not, as this message says.
    Removed(String),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Create a Job. Tried again until it is there, refused for good, or to be deleted.
    Create {
        name: String,
        namespace: String,
        kind: Kind,
        /// The images that are to be pulled; none for a Job that removes.
        images: Vec<ImageRef>,
        limit: Duration,
    },
    /// Delete a Job, be it there or not.
    Delete { name: String, namespace: String },
    /// Ask why a Job has no pod.
    Inquire { name: String, namespace: String },
    /// Tell whoever waits; of which Job, if it came to one.
    Answer {
        id: u64,
        job: Option<String>,
        result: Result<Reached, Failure>,
    },
    /// Something was reached that nobody waits for just now: a caller who was told of an earlier
    /// failure, and comes back.
    Unclaimed {
        job: String,
        /// The image that was pulled, where that is what it was.
        image: Option<ImageRef>,
        reached: Reached,
    },
    /// A Job is over that had not come to these: it may have had them pulled all the same.
    Over { images: Vec<ImageRef> },
    /// These are pulled one after another: each has that many deadlines from now on.
    Stretch { images: Vec<ImageRef>, times: u32 },
}

/// It took too long, and why as far as that is known.
pub(super) fn too_late(want: &Want, why: &str) -> Failure {
    let whole = want.deadline.saturating_mul(want.times);
    let text = format!("not complete within its deadline of {whole:?}: {why}");
    Failure::new(Reason::DeadlineExceeded, text)
}

/// Whether waiting longer may help without anybody acting.
pub(super) fn passes(failure: &Failure) -> bool {
    matches!(
        failure.class(),
        ErrorClass::Retryable | ErrorClass::Throttled
    )
}
