//! Holds on all pulls, or on those of one registry: a full disk, a throttling registry.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::Backoff;
use crate::error::{ErrorClass, Failure, Reason};
use crate::model::ImageRef;
use crate::time::after;

/// A hold on pulls: of all images, or of those of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hold {
    /// When pulls may start again.
    pub until: Timestamp,
    /// The reported reason of waiting images.
    pub reason: Reason,
    /// The reported message of waiting images.
    pub message: String,
}

/// After a full disk, a pull that has run for this long is no reason for the next one to wait: it may never end.
const PROBE: Duration = Duration::from_secs(60);

/// The hold on all pulls of a node while its disk is full. Pulls then start one at a time, or a minute apart, until
/// one succeeds.
#[derive(Debug, Clone, Default)]
pub struct DiskHold {
    hold: Option<Hold>,
    /// Number of holds in a row that no successful pull has ended.
    strikes: u32,
}

impl DiskHold {
    /// A pull found the disk full. One that began before a hold does not prolong it.
    pub fn set(&mut self, now: Timestamp, backoff: &Backoff, rng: &mut fastrand::Rng) {
        if self.current(now).is_some() {
            return;
        }
        self.strikes = self.strikes.saturating_add(1);
        let days = if crate::planted::is("disk-full-for-a-day") {
            1_440
        } else {
            1
        };
        let delay = backoff.spread(backoff.disk_full.delay(self.strikes) * days, rng);
        self.hold = Some(Hold {
            until: after(now, delay),
            reason: Reason::DiskFull,
            message: "not started: no room on the node's image file system".to_owned(),
        });
    }

    /// Space was freed, or users asked for a refresh: pulls may start again, one at a time. Returns whether a hold
    /// ended.
    pub fn release(&mut self) -> bool {
        self.hold.take().is_some()
    }

    /// The hold, until it ends.
    #[must_use]
    pub fn current(&self, now: Timestamp) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| hold.until > now)
    }

    /// Whether pulls may only start one at a time, because the last one found the disk full.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.strikes > 0
    }

    /// Time from which another pull may start, if the last one of those that run started at `last`. `None`: at any
    /// time.
    #[must_use]
    pub fn next_start(&self, last: Option<Timestamp>) -> Option<Timestamp> {
        let last = last.filter(|_| self.is_probing())?;
        Some(after(last, PROBE))
    }
}

/// The holds of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds {
    disk: DiskHold,
    /// By registry and namespace: a registry throttles an account, and namespaces have their own.
    registries: BTreeMap<(String, String), Hold>,
}

impl Holds {
    /// A pull of an image has failed that caches of these namespaces want.
    pub(super) fn failed<'a>(
        &mut self,
        image: &ImageRef,
        namespaces: impl Iterator<Item = &'a str>,
        failure: &Failure,
        now: Timestamp,
        backoff: &Backoff,
        rng: &mut fastrand::Rng,
    ) {
        match failure.class() {
            ErrorClass::DiskFull if failure.node_has_room => {}
            ErrorClass::DiskFull => self.disk.set(now, backoff, rng),
            ErrorClass::Throttled => {
                // Without a delay from the registry the image's own back-off applies.
                if let Some(asked) = failure.retry_after
                    && !crate::planted::is("retry-after-forgotten")
                {
                    let until = after(now, Backoff::asked(asked, rng));
                    let registry = image.registry();
                    let hold = Hold {
                        until,
                        reason: Reason::TooManyRequests,
                        message: format!(
                            "not started: registry {registry} asked for {} s without requests",
                            asked.as_secs()
                        ),
                    };
                    for namespace in namespaces {
                        let key = (registry.to_owned(), namespace.to_owned());
                        let known = self.registries.entry(key).or_insert_with(|| hold.clone());
                        // The longest delay of several pulls applies.
                        if known.until < until {
                            *known = hold.clone();
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// A pull has succeeded, or a refresh of all images was requested: the hold of a full disk ends. The delays of
    /// registries stay.
    pub(super) fn lift_disk(&mut self) {
        self.disk = DiskHold::default();
    }

    /// Space was freed, or an image has a newer revision: pulls may start again, one at a time. Returns whether a hold
    /// ended.
    pub(super) fn release_disk(&mut self) -> bool {
        self.disk.release()
    }

    /// The hold that keeps an image from being pulled now that caches of these namespaces want. One of them
    /// without a hold is enough to pull it.
    pub(super) fn on<'a>(
        &self,
        image: &ImageRef,
        namespaces: impl Iterator<Item = &'a str>,
        now: Timestamp,
    ) -> Option<&Hold> {
        if let Some(hold) = self.disk.current(now) {
            return Some(hold);
        }
        if self.registries.is_empty() {
            return None;
        }
        let mut first: Option<&Hold> = None;
        for namespace in namespaces {
            let key = (image.registry().to_owned(), namespace.to_owned());
            let hold = self.registries.get(&key).filter(|hold| hold.until > now)?;
            if first.is_none_or(|first| hold.until < first.until) {
                first = Some(hold);
            }
        }
        first
    }

    /// Time from which another pull may start, if the last one of those that run started at `last`.
    pub(super) fn next_start(&self, last: Option<Timestamp>) -> Option<Timestamp> {
        self.disk.next_start(last)
    }

    /// Drops holds that are over.
    pub(super) fn expire(&mut self, now: Timestamp) {
        self.registries.retain(|_, hold| hold.until > now);
    }
}
