//! The authority's certificate in the ValidatingWebhookConfiguration, where the API server looks for it.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::info;

use super::authority::newest;

/// Name of the webhook as a writer of the configuration and of its Secret.
pub(super) const FIELD_MANAGER: &str = "fledged-webhook";

/// When the bundle that is there will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enough {
    /// Where it is the wanted one.
    Equals,
    /// Where the newest authority of the wanted one is in it: there may be newer ones that are not known of.
    Contains,
}

/// Brings the CA bundle into every webhook of the configuration of that name, and of no other; writes
/// nothing where it is there.
///
/// The bundle is then nobody's. Whoever applies the configuration server-side with a bundle in it, as helm
/// does on its way back to kube-fledged's chart, would be refused over a field that the webhook owns; and
/// what is applied over it is mended here anyway.
pub(super) async fn ensure(
    client: &Client,
    name: &str,
    bundle: &str,
    enough: Enough,
) -> kube::Result<()> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let mut found = api.get(name).await?;
    if let Some(operations) = renewal(&found, bundle, enough) {
        found = change(&api, name, operations).await?;
        info!(configuration = name, "the CA bundle was renewed");
    }
    if let Some(operations) = disowning(&found) {
        change(&api, name, operations).await?;
    }
    Ok(())
}

async fn change(
    api: &Api<ValidatingWebhookConfiguration>,
    name: &str,
    operations: Value,
) -> kube::Result<ValidatingWebhookConfiguration> {
    let patch = serde_json::from_value(operations).map_err(kube::Error::SerdeError)?;
    let patch: Patch<Value> = Patch::Json(patch);
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch(name, &params, &patch).await
}

/// Fails where somebody else has changed the configuration meanwhile.
fn unchanged(found: &ValidatingWebhookConfiguration) -> Value {
    let version = &found.metadata.resource_version;
    json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version })
}

/// A JSON patch after which the webhook owns no field.
fn disowning(found: &ValidatingWebhookConfiguration) -> Option<Value> {
    let entries = found.metadata.managed_fields.iter().flatten().enumerate();
    let own = entries.filter(|(_, entry)| entry.manager.as_deref() == Some(FIELD_MANAGER));
    let mut operations: Vec<Value> = own
        .map(|(number, _)| json!({ "op": "remove", "path": format!("/metadata/managedFields/{number}") }))
        .collect();
    if operations.is_empty() {
        return None;
    }
    // From the last on, so that no number means another entry.
    operations.push(unchanged(found));
    operations.reverse();
    Some(Value::Array(operations))
}

/// A JSON patch that brings the bundle.
fn renewal(found: &ValidatingWebhookConfiguration, bundle: &str, enough: Enough) -> Option<Value> {
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let is_enough = |there: Option<&ByteString>| match enough {
        Enough::Equals => there == Some(&wanted),
        Enough::Contains => there.zip(newest(bundle)).is_some_and(|(there, newest)| {
            String::from_utf8_lossy(&there.0).contains(newest.trim_end())
        }),
    };
    let webhooks = found.webhooks.iter().flatten().enumerate();
    let stale =
        webhooks.filter(|(_, webhook)| !is_enough(webhook.client_config.ca_bundle.as_ref()));
    let mut operations: Vec<Value> = stale
        .map(|(number, _)| {
            let path = format!("/webhooks/{number}/clientConfig/caBundle");
            json!({ "op": "add", "path": path, "value": wanted })
        })
        .collect();
    if operations.is_empty() {
        return None;
    }
    operations.insert(0, unchanged(found));
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
            renewal(
                &mk_configuration(&[Some("new"), Some("new")]),
                "new",
                Enough::Equals
            ),
            None
        );
        let stale = mk_configuration(&[Some("new"), Some("old"), None]);
        let value = json!(ByteString(b"new".to_vec()));
        assert_eq!(
            renewal(&stale, "new", Enough::Equals).unwrap(),
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": "7" },
                { "op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": value },
                { "op": "add", "path": "/webhooks/2/clientConfig/caBundle", "value": value },
            ])
        );
    }

    #[test]
    fn a_bundle_with_newer_authorities_is_left_to_whoever_knows_them() {
        let pem = |name: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n")
        };
        let known = pem("second") + &pem("first");
        let newer = pem("third") + &pem("second");
        let newer = mk_configuration(&[Some(&newer)]);
        assert_eq!(renewal(&newer, &known, Enough::Contains), None);
        assert!(renewal(&newer, &known, Enough::Equals).is_some());
        for other in [Some(pem("other")), Some(String::new()), None] {
            let found = mk_configuration(&[other.as_deref()]);
            assert!(renewal(&found, &known, Enough::Contains).is_some());
        }
    }

    #[test]
    fn only_its_own_entries_are_given_up_and_only_if_nobody_was_faster() {
        let mut found = mk_configuration(&[Some("new")]);
        assert_eq!(disowning(&found), None);
        let managers = ["helm", FIELD_MANAGER, "kubectl", FIELD_MANAGER];
        let entries = managers.map(|manager| json!({ "manager": manager, "operation": "Update" }));
        found.metadata.managed_fields = Some(serde_json::from_value(json!(entries)).unwrap());
        assert_eq!(
            disowning(&found).unwrap(),
            json!([
                { "op": "test", "path": "/metadata/resourceVersion", "value": "7" },
                { "op": "remove", "path": "/metadata/managedFields/3" },
                { "op": "remove", "path": "/metadata/managedFields/1" },
            ])
        );
    }
}
