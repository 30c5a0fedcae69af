//! Manifests, as the commands take them.

use fledged_core::model::{Assignment, DeletionPolicy, ImageCache, NodeFacts};

use serde_json::Value;

use super::CommandError;
use crate::args::RegistryArgs;
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
pub(crate) fn warn_unread(manifests: &Manifests, terminal: &Terminal) {
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

/// Says so when the registry credentials that were given hold none.
///
/// A file that can't be read or is malformed is an error elsewhere, and one that names helpers is
/// warned of elsewhere.
pub(super) fn warn_no_credentials(registry: &RegistryArgs, terminal: &Terminal) {
    let Some(path) = &registry.registry_config else {
        return;
    };
    let config = std::fs::read(path)
        .ok()
        .and_then(|content| serde_json::from_slice(&content).ok());
    if config.is_some_and(|config| holds_nothing(&config)) {
        terminal.warn(format_args!(
            "--registry-config {}: it holds no credentials, so every pull is anonymous; they belong in \"auths\", as docker login writes them",
            path.display()
        ));
    }
}

/// Whether a docker configuration has neither entries, new or old style, nor helpers.
fn holds_nothing(config: &Value) -> bool {
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
        // The old style has the registries at the top.
        None => !fields.values().any(|value| {
            ["auth", "username", "identitytoken", "registrytoken"]
                .iter()
                .any(|name| value.get(name).is_some())
        }),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_config_without_entries_and_helpers_holds_nothing() {
        for nothing in [
            json!({}),
            json!({"auths": {}}),
            json!({"auths": null, "credsStore": ""}),
            json!({"HttpHeaders": {"User-Agent": "x"}}),
        ] {
            assert!(holds_nothing(&nothing), "{nothing}");
        }
        for something in [
            json!({"auths": {"registry.example": {"auth": "dTpw"}}}),
            json!({"registry.example": {"auth": "dTpw"}}),
            json!({"auths": {}, "credHelpers": {"registry.example": "x"}}),
            json!({"credsStore": "desktop"}),
        ] {
            assert!(!holds_nothing(&something), "{something}");
        }
    }
}
