//! What has not converged, and what goes on after convergence.

use std::collections::BTreeSet;
use std::time::Duration;

use fledged_core::model::{DesiredState, ImagePhase, ImageRef};

use super::Ledger;

impl Ledger {
    /// Whether a node exists and is Ready.
    pub(in crate::simulation) fn is_ready(&self, node: &str) -> bool {
        let state = self.state();
        state.nodes.get(node).is_some_and(|facts| facts.ready)
    }

    /// Whether a node reports that it keeps an image that is in use.
    pub(in crate::simulation) fn reports_in_use(&self) -> bool {
        let state = self.state();
        let reports = state.records.values();
        let reports = reports.filter_map(|record| record.report.as_ref());
        let mut images = reports.flat_map(|report| &report.images);
        images.any(|image| image.phase == ImagePhase::InUse)
    }

    /// Whether a node lacks an image that no valid spec wants: an ImageCache whose spec has become invalid keeps its
    /// images. Convergence does not wait for such a pull, which is retried.
    pub(in crate::simulation) fn retries_kept(&self) -> bool {
        let state = self.state();
        let wanted = state.wanted_images(state.caches.values());
        state.records.iter().any(|(node, record)| {
            let reports = record.report.iter().flat_map(|report| &report.images);
            let cached = reports.filter(|report| report.phase == ImagePhase::Cached);
            let cached: BTreeSet<&ImageRef> = cached.map(|report| &report.image).collect();
            record.assignment.images.iter().any(|entry| {
                let key = (node.clone(), entry.image.clone());
                entry.state == DesiredState::Present
                    && !wanted.contains(&key)
                    && !cached.contains(&entry.image)
            })
        })
    }

    /// The images that the record of a Ready node has although no cache wants them there, and none may keep them,
    /// with an invalid spec or because a refresh is asked for beside a purge.
    pub(in crate::simulation) fn unwanted_on(&self, node: &str) -> Vec<ImageRef> {
        let state = self.state();
        let record = state.records.get(node);
        let entries = record.iter().flat_map(|record| &record.assignment.images);
        let unwanted = entries.filter(|entry| {
            let kept = entry.wanted_by.iter().any(|id| {
                let key = (id.namespace.clone(), id.name.clone());
                let cache = state.caches.get(&key);
                cache.is_some_and(|cache| cache.undecided || (cache.spec.is_none() && !cache.idle))
            });
            let key = (node.to_owned(), entry.image.clone());
            let present = entry.state == DesiredState::Present;
            present && !kept && !state.wanted.contains_key(&key)
        });
        unwanted.map(|entry| entry.image.clone()).collect()
    }

    /// The images that caches of these namespaces want on Ready nodes, and since when.
    pub(in crate::simulation) fn wanted_by(
        &self,
        namespaces: &[&str],
    ) -> Vec<(String, ImageRef, Duration)> {
        let state = self.state();
        let caches = state.caches.iter();
        let caches = caches.filter(|((of, _), _)| namespaces.contains(&of.as_str()));
        let wanted = state.wanted_images(caches.map(|(_, cache)| cache));
        let wanted = wanted
            .into_iter()
            .filter(|(node, _)| state.nodes.get(node).is_some_and(|facts| facts.ready));
        let since = |key: &(String, ImageRef)| {
            let caches = state.wanted.get(key);
            let since = caches.and_then(|caches| caches.values().max().copied());
            since.unwrap_or_default()
        };
        wanted
            .map(|key| (key.0.clone(), key.1.clone(), since(&key)))
            .collect()
    }
}
