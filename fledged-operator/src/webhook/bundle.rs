//! The authority's certificate in the ValidatingWebhookConfiguration, where the API server looks for it.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::info;

/// Brings the CA bundle into every webhook of the configuration of that name, and of no other; writes
/// nothing where it is there.
pub(super) async fn ensure(client: &Client, name: &str, bundle: &str) -> kube::Result<()> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let found = api.get(name).await?;
    let Some(patch) = patch(&found, bundle) else {
        return Ok(());
    };
    let patch = serde_json::from_value(patch).map_err(kube::Error::SerdeError)?;
    let patch: Patch<Value> = Patch::Json(patch);
    api.patch(name, &PatchParams::default(), &patch).await?;
    info!(configuration = name, "the CA bundle was renewed");
    Ok(())
}

/// A JSON patch that fails where somebody else has changed the configuration meanwhile.
fn patch(found: &ValidatingWebhookConfiguration, bundle: &str) -> Option<Value> {
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let webhooks = found.webhooks.iter().flatten().enumerate();
    let stale =
        webhooks.filter(|(_, webhook)| webhook.client_config.ca_bundle.as_ref() != Some(&wanted));
    let mut operations: Vec<Value> = stale
        .map(|(number, _)| {
            let path = format!("/webhooks/{number}/clientConfig/caBundle");
            json!({ "op": "add", "path": path, "value": wanted })
        })
        .collect();
    if operations.is_empty() {
        return None;
    }
    let version = &found.metadata.resource_version;
    operations.insert(
        0,
        json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version }),
    );
    Some(Value::Array(operations))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_configuration(bundles: &[Option<&str>]) -> ValidatingWebhookConfiguration {
        let webhooks: Vec<Value> = bundles
            .iter()
            .enumerate()
            .map(|(number, bundle)| {
                let bundle = bundle.map(|bundle| json!(ByteString(bundle.as_bytes().to_vec())));
                json!({ "name": format!("w{number}.kubefledged.io"), "sideEffects": "None",
                    "admissionReviewVersions": ["v1"], "clientConfig": { "caBundle": bundle } })
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": { "name": "ours", "resourceVersion": "7" }, "webhooks": webhooks,
        }))
        .unwrap()
    }

    #[test]
    fn only_what_differs_is_patched_and_only_if_nobody_was_faster() {
        assert_eq!(
            patch(&mk_configuration(&[Some("new"), Some("new")]), "new"),
            None
        );
        let patch = patch(&mk_configuration(&[Some("new"), Some("old"), None]), "new").unwrap();
        let value = json!(ByteString(b"new".to_vec()));
        assert_eq!(
            patch,
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": "7" },
                { "op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": value },
                { "op": "add", "path": "/webhooks/2/clientConfig/caBundle", "value": value },
            ])
        );
    }
}
