//! Warnings about manifests and credentials that are valid and probably mistaken.

use std::time::Duration;

use fledged_core::model::{DeletionPolicy, GoDuration, ImageCache};
use fledged_cri::target::RuntimeUri;
use serde_json::Value;

use super::{Manifests, Source, read};
use crate::args::RegistryArgs;
use crate::command_result::CommandError;
use crate::output::Terminal;

/// Reads manifests and reports what has no effect.
pub(crate) async fn load(
    sources: Vec<Source>,
    terminal: &Terminal,
) -> Result<Manifests, CommandError> {
    let manifests = tokio::task::spawn_blocking(move || read(&sources)).await??;
    report_unused(&manifests, terminal);
    Ok(manifests)
}

/// Reports what has no effect: objects of other kinds and, as warnings, unknown fields.
pub(crate) fn report_unused(manifests: &Manifests, terminal: &Terminal) {
    for note in &manifests.notes {
        terminal.line(format_args!("note: {note}"));
    }
    for finding in &manifests.warnings {
        terminal.warn(finding);
    }
}

/// Warns about fields that have an effect only in a cluster.
pub(crate) fn warn_unsupported(caches: &[ImageCache], has_credentials: bool, terminal: &Terminal) {
    for cache in caches {
        let needs_cluster = !cache.pull_secrets.is_empty() || cache.service_account.is_some();
        if needs_cluster && !has_credentials {
            terminal.warn(format_args!(
                "ImageCache {}: Secrets and ServiceAccounts cannot be read outside a cluster; give registry credentials with docker login or --registry-config, or pulls of private images fail",
                cache.id
            ));
        }
        if cache.deletion_policy == DeletionPolicy::Purge {
            tracing::info!(cache = %cache.id, "deletionPolicy ignored outside a cluster");
        }
        if cache.rollout.max_concurrent_nodes.is_some() {
            tracing::info!(cache = %cache.id, "rollout.maxConcurrentNodes ignored outside a cluster");
        }
    }
}

/// Warns about deadlines that are longer than `longest`, which counts in their place.
pub(crate) fn warn_cut_deadlines(caches: &[ImageCache], longest: Duration, terminal: &Terminal) {
    for cache in caches {
        if let Some(deadline) = cache.deadline_above(longest).map(GoDuration) {
            terminal.warn(format_args!(
                "ImageCache {}: a deadline of {deadline} is cut to {}; --deadline {deadline} allows it",
                cache.id,
                GoDuration(longest)
            ));
        }
    }
}

/// Warns about pull rates that a runtime does not keep because it pulls by itself.
pub(crate) fn warn_unlimited(
    caches: &[ImageCache],
    pulls_itself: Option<&RuntimeUri>,
    terminal: &Terminal,
) {
    let Some(uri) = pulls_itself else {
        return;
    };
    for cache in caches.iter().filter(|cache| cache.max_pull_rate.is_some()) {
        terminal.warn(format_args!(
            "ImageCache {}: spec.rollout.maxPullRatePerNode is not kept: {uri} pulls by itself; only oci: and, with --pull-via auto, containerd can be limited",
            cache.id
        ));
    }
}

/// Warns if the file of `--registry-config` has no credentials.
///
/// Elsewhere, a file that cannot be read or parsed is an error, and one that names helpers gets a warning.
pub(crate) fn warn_no_credentials(registry: &RegistryArgs, terminal: &Terminal) {
    let Some(path) = &registry.registry_config else {
        return;
    };
    let config = std::fs::read(path)
        .ok()
        .and_then(|content| serde_json::from_slice(&content).ok());
    if config.is_some_and(|config| has_no_credentials(&config)) {
        terminal.warn(format_args!(
            "--registry-config {}: the file contains no credentials, so every pull is anonymous; expected \"auths\", as docker login writes it",
            path.display()
        ));
    }
}

/// Whether a docker configuration has neither entries, of the new or the old format, nor helpers.
fn has_no_credentials(config: &Value) -> bool {
    let Value::Object(fields) = config else {
        return false;
    };
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(entries) => entries.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    if ["credsStore", "credHelpers"]
        .iter()
        .any(|name| fields.get(*name).is_some_and(|value| !is_empty(value)))
    {
        return false;
    }
    match fields.get("auths") {
        Some(auths) => is_empty(auths),
        // The old format has the registries at the top level.
        None => !fields.values().any(|value| {
            ["auth", "username", "identitytoken", "registrytoken"]
                .iter()
                .any(|name| value.get(name).is_some())
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_config_without_entries_and_helpers_has_no_credentials() {
        for empty in [
            json!({}),
            json!({"auths": {}}),
            json!({"auths": null, "credsStore": ""}),
            json!({"HttpHeaders": {"User-Agent": "x"}}),
        ] {
            assert!(has_no_credentials(&empty), "{empty}");
        }
        for config in [
            json!({"auths": {"registry.example": {"auth": "dTpw"}}}),
            json!({"registry.example": {"auth": "dTpw"}}),
            json!({"auths": {}, "credHelpers": {"registry.example": "x"}}),
            json!({"credsStore": "desktop"}),
        ] {
            assert!(!has_no_credentials(&config), "{config}");
        }
    }
}
