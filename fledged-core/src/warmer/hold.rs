//! Holds on all pulls, or on those of one registry: a full disk, a throttling registry.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Backoff;
use crate::error::{ErrorClass, Failure, Reason};
use crate::model::ImageRef;
use crate::time::after;

/// The holds in force.
#[derive(Debug, Default)]
pub(super) struct Holds {
    disk: Option<Hold>,
    /// Pulls in a row that found the disk full; zero once a pull succeeds.
    disk_strikes: u32,
    registries: BTreeMap<String, Hold>,
}

#[derive(Debug, Clone)]
pub(super) struct Hold {
    pub(super) until: Timestamp,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Holds {
    /// Takes note of a failed pull.
    pub(super) fn failed(
        &mut self,
        image: &ImageRef,
        failure: &Failure,
        now: Timestamp,
        backoff: &Backoff,
        rng: &mut fastrand::Rng,
    ) {
        match failure.class() {
            ErrorClass::DiskFull => {
                self.disk_strikes = self.disk_strikes.saturating_add(1);
                let delay = backoff.spread(backoff.disk_full.delay(self.disk_strikes), rng);
                self.disk = Some(Hold {
                    until: after(now, delay),
                    reason: Reason::DiskFull,
                    message: format!(
                        "not started: no room on the node's image file system (found when pulling {image}: {failure})"
                    ),
                });
            }
            ErrorClass::Throttled => {
                // Without a delay from the registry the image's own back-off applies.
                if let Some(asked) = failure.retry_after {
                    let until = after(now, Backoff::asked(asked, rng));
                    let registry = image.registry();
                    // The longest delay of several pulls applies.
                    if self
                        .registries
                        .get(registry)
                        .is_some_and(|h| h.until >= until)
                    {
                        return;
                    }
                    let hold = Hold {
                        until,
                        reason: Reason::TooManyRequests,
                        message: format!(
                            "not started: registry {registry} asked for {} s without requests",
                            asked.as_secs()
                        ),
                    };
                    self.registries.insert(registry.to_owned(), hold);
                }
            }
            _ => {}
        }
    }

    /// Takes note of a pull that succeeded: the disk has space.
    pub(super) fn succeeded(&mut self) {
        self.disk = None;
        self.disk_strikes = 0;
    }

    /// Takes note of freed space: pulls may start again, one at a time. Returns whether a hold ended.
    pub(super) fn freed(&mut self) -> bool {
        self.disk.take().is_some()
    }

    /// A refresh was requested: lifts the hold of a full disk. The delays of registries stay.
    pub(super) fn lift(&mut self) {
        self.disk = None;
        self.disk_strikes = 0;
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.disk.is_none() && self.registries.is_empty()
    }

    /// The hold that keeps this image from being pulled now.
    pub(super) fn on(&self, image: &ImageRef, now: Timestamp) -> Option<&Hold> {
        self.disk
            .iter()
            .chain(self.registries.get(image.registry()))
            .find(|hold| hold.until > now)
    }

    /// Whether pulls may only be started one at a time, because the disk was full last time.
    pub(super) fn probing(&self) -> bool {
        self.disk_strikes > 0
    }

    /// Drops holds that are over.
    pub(super) fn expire(&mut self, now: Timestamp) {
        if self.disk.as_ref().is_some_and(|hold| hold.until <= now) {
            self.disk = None;
        }
        self.registries.retain(|_, hold| hold.until > now);
    }
}
