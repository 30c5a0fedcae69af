//! What a node holds, as far as can be known from afar.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::{
    AssignedImage, ByteSize, DesiredState, Digest, ImagePhase, ImageRef, ImageReport,
};
use fledged_core::port::{ImageId, RuntimeImage};
use jiff::Timestamp;

use super::node::NodeView;
use crate::report::after;

/// How long an image that something uses is left alone before it is tried to be removed again: what
/// runs on a node is not seen from here, and every attempt takes a pod.
const LEFT_ALONE: Duration = Duration::from_secs(15 * 60);

/// What this driver has seen of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// The kubelet has pulled it, or found it there.
    Here {
        digest: Option<Digest>,
        size: ByteSize,
        at: Timestamp,
    },
    /// A Job is there that may have it pulled, or was until then.
    Perhaps { until: Option<Timestamp> },
    /// It was removed, or found absent.
    Gone { at: Timestamp },
}

/// Folds what was seen of a node's images and what its kubelet lists.
///
/// A kubelet lists [`list_max`](super::JobOptions::list_max) images at most, some time after the fact.
/// What it names is there, unless it was seen to go since. What it does not name is absent only if the
/// list is complete and newer than what was seen, and no image of it may have that name untold (a kubelet
/// tells five names of an image at most). Everything else is not known: an image that is to be
/// there is then pulled, and one that is to be absent removed, by a Job that finds out.
#[derive(Debug, Default)]
pub(super) struct Presence {
    margin: Duration,
    list_max: usize,
    node: Arc<NodeView>,
    seen: BTreeMap<ImageRef, Seen>,
    /// What could not be removed, until it is worth another try.
    refused: BTreeMap<ImageRef, Timestamp>,
    /// What a Job that is under way removes.
    removing: BTreeSet<ImageRef>,
    /// What is to be there, and what is to be absent.
    states: BTreeMap<ImageRef, DesiredState>,
}

impl Presence {
    pub(super) fn new(margin: Duration, list_max: usize) -> Self {
        Self {
            margin,
            list_max,
            ..Self::default()
        }
    }

    /// What was told of it before a restart.
    pub(super) fn resume(&mut self, reports: &[ImageReport], now: Timestamp) {
        for report in reports {
            if report.phase == ImagePhase::Cached {
                let here = Seen::Here {
                    digest: report.digest.clone(),
                    size: report.size.unwrap_or(ByteSize::ZERO),
                    // A list that is older than this process may be older than the pull, too.
                    at: report.finished_at.unwrap_or(now),
                };
                self.seen.insert(report.image.clone(), here);
            }
        }
    }

    /// What is assigned from now on. What is not is nobody's business any more.
    pub(super) fn assign(&mut self, images: &[AssignedImage]) {
        let states = images
            .iter()
            .map(|entry| (entry.image.clone(), entry.state));
        self.states = states.collect();
        let states = &self.states;
        self.seen.retain(|image, _| states.contains_key(image));
        self.refused
            .retain(|image, _| states.get(image) == Some(&DesiredState::Absent));
    }

    pub(super) fn node(&mut self, node: Arc<NodeView>) {
        self.node = node;
    }

    /// The kubelet has it.
    pub(super) fn pulled(&mut self, image: &ImageRef, digest: Option<Digest>, now: Timestamp) {
        let size = match self.seen.get(image) {
            Some(Seen::Here { size, .. }) => *size,
            _ => ByteSize::ZERO,
        };
        let at = now;
        let here = Seen::Here { digest, size, at };
        self.seen.insert(image.clone(), here);
    }

    /// A Job may have it pulled from now on, or might have until now.
    pub(super) fn perhaps(&mut self, image: &ImageRef, until: Option<Timestamp>) {
        if !matches!(self.seen.get(image), Some(Seen::Here { .. })) {
            self.seen.insert(image.clone(), Seen::Perhaps { until });
        }
    }

    /// It is not there any more.
    pub(super) fn gone(&mut self, image: &ImageRef, now: Timestamp) {
        self.refused.remove(image);
        self.seen.insert(image.clone(), Seen::Gone { at: now });
    }

    /// It is there, and can't be removed.
    pub(super) fn refused(&mut self, image: &ImageRef, now: Timestamp) {
        self.refused.insert(image.clone(), after(now, LEFT_ALONE));
    }

    /// A Job removes these.
    pub(super) fn removing(&mut self, images: BTreeSet<ImageRef>) {
        self.removing = images;
    }

    /// Whether the node's list may say anything of what happened then.
    fn covers(&self, at: Timestamp) -> bool {
        let told = self.node.told_at;
        told.is_some_and(|told| told >= after(at, self.margin))
    }

    /// The digest that was pulled since the node's list was told.
    fn newer_digest(&self, image: &ImageRef) -> Option<Digest> {
        match self.seen.get(image)? {
            Seen::Here { digest, at, .. } if !self.covers(*at) => digest.clone(),
            _ => None,
        }
    }

    /// Whether absence from the node's list means anything: no image of it, and no name of that image,
    /// may have been left out.
    fn tells_all_of(&self, image: &ImageRef) -> bool {
        let complete = self.node.told_at.is_some() && self.node.listed < self.list_max;
        complete && !self.node.may_hide(image)
    }

    /// Everything that counts as present, by all its names; forgets what newer lists contradict.
    pub(super) fn list(&mut self) -> Vec<RuntimeImage> {
        let node = Arc::clone(&self.node);
        let named: BTreeSet<&ImageRef> = node.images.iter().flat_map(|i| &i.references).collect();
        let mut seen = std::mem::take(&mut self.seen);
        seen.retain(|image, seen| match seen {
            Seen::Perhaps { until: None } => true,
            Seen::Here { at, .. } | Seen::Perhaps { until: Some(at) } => {
                let lost = self.tells_all_of(image) && !named.contains(image) && self.covers(*at);
                !lost
            }
            Seen::Gone { at } => {
                // It is back, or the list that still had it is over.
                let back = named.contains(image) && self.covers(*at);
                !back
            }
        });
        self.seen = seen;
        let hidden = |image: &ImageRef| {
            let gone = matches!(self.seen.get(image), Some(Seen::Gone { .. }));
            let state = self.states.get(image);
            gone || (state == Some(&DesiredState::Present) && self.removing.contains(image))
        };
        let mut listed: Vec<RuntimeImage> = Vec::new();
        for image in &node.images {
            let mut image = image.clone();
            image.references.retain(|name| !hidden(name));
            if image.references.is_empty() {
                continue;
            }
            // A tag that has moved: what was pulled is newer than what is listed.
            let mut newer = image.references.iter().filter_map(|n| self.newer_digest(n));
            if let Some(digest) = newer.next() {
                image.digest = Some(digest);
            }
            listed.push(image);
        }
        for (image, state) in &self.states {
            if named.contains(image) || hidden(image) {
                continue;
            }
            let alone = RuntimeImage::new(image.as_str(), [image.clone()]);
            match (self.seen.get(image), state) {
                (Some(Seen::Here { digest, size, .. }), _) => {
                    listed.push(alone.with_digest(digest.clone()).with_size(*size));
                }
                // Not known to be absent.
                (Some(Seen::Perhaps { .. }), DesiredState::Absent) => listed.push(alone),
                (None, DesiredState::Absent) if !self.tells_all_of(image) => listed.push(alone),
                _ => {}
            }
        }
        listed
    }

    /// One image, if it counts as present; of what is to be absent, only if it is known to be there.
    pub(super) fn find(&self, image: &ImageRef) -> Option<RuntimeImage> {
        let being_removed = self.removing.contains(image);
        let seen = self.seen.get(image);
        if being_removed || matches!(seen, Some(Seen::Gone { .. })) {
            return None;
        }
        let mut named = self.node.images.iter();
        let named = named.find(|found| found.references.contains(image));
        match (named, seen) {
            (Some(found), _) => {
                let digest = self.newer_digest(image).or_else(|| found.digest.clone());
                Some(found.clone().with_digest(digest))
            }
            (None, Some(Seen::Here { digest, size, at })) => {
                let lost = self.tells_all_of(image) && self.covers(*at);
                let alone = RuntimeImage::new(image.as_str(), [image.clone()]);
                (!lost).then(|| alone.with_digest(digest.clone()).with_size(*size))
            }
            _ => None,
        }
    }

    /// What could not be removed and is to be left alone for now.
    pub(super) fn in_use(&mut self, now: Timestamp) -> Vec<ImageId> {
        self.refused.retain(|_, until| *until > now);
        let listed = self.list();
        let refused = listed.into_iter().filter(|image| {
            let mut names = image.references.iter();
            names.any(|name| self.refused.contains_key(name))
        });
        refused.map(|image| image.id).collect()
    }
}

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;
