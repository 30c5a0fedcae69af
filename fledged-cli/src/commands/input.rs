//! Manifests, as the commands take them.

use fledged_core::model::{Assignment, DeletionPolicy, ImageCache, NodeFacts};

use super::CommandError;
use crate::manifest::{self, Manifests, Source};
use crate::output::Terminal;

/// Reads manifests and says what nobody reads in them.
pub(super) async fn manifests(
    sources: Vec<Source>,
    terminal: &Terminal,
) -> Result<Manifests, CommandError> {
    let manifests = tokio::task::spawn_blocking(move || manifest::read(&sources)).await??;
    warn_unread(&manifests, terminal);
    Ok(manifests)
}

/// Says which fields nobody reads.
pub(super) fn warn_unread(manifests: &Manifests, terminal: &Terminal) {
    for finding in &manifests.warnings {
        terminal.warn(finding);
    }
}

/// Says what a cluster would honour and one machine can't.
pub(super) fn warn_unhonoured(caches: &[ImageCache], has_credentials: bool, terminal: &Terminal) {
    for cache in caches {
        let named = !cache.pull_secrets.is_empty() || cache.service_account.is_some();
        if named && !has_credentials {
            terminal.warn(format_args!(
                "ImageCache {}: Secrets and ServiceAccounts can't be read outside a cluster; give its registry credentials with --registry-config, or private images will be refused",
                cache.id
            ));
        }
        if cache.deletion_policy == DeletionPolicy::Purge {
            tracing::info!(cache = %cache.id, "deletionPolicy counts in a cluster only");
        }
        if cache.rollout.max_concurrent_nodes.is_some() {
            tracing::info!(cache = %cache.id, "rollout counts in a cluster only");
        }
    }
}

/// Says so when nothing is meant for this node: probably a label is missing.
pub(super) fn warn_nothing(assignment: &Assignment, node: &NodeFacts, terminal: &Terminal) {
    if assignment.images.is_empty() {
        let labels: Vec<String> = node
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        terminal.warn(format_args!(
            "no entry of the manifests is meant for this node, whose labels are {}; give others with --node-label",
            labels.join(", ")
        ));
    }
}
