//! The validating webhook: its configuration, its CA bundle, and the endpoints of its Service.

use fledged_kube::crd::GROUP;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    ServiceReference, ValidatingWebhook, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::checks;
use super::installation::{Component, of_component, some_of};
use super::reader::Fact;
use crate::doctor::{Check, Finding};
use crate::output::{pluralised, span};

/// A CA that ends sooner is reported. The webhook server and cert-manager renew much earlier.
const EXPIRY_SECONDS: i64 = 24 * 3600;
/// The failure policy with which the API server refuses what it cannot have reviewed.
const FAIL: &str = "Fail";

/// A webhook for ImageCaches.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Webhook {
    /// Name of the configuration.
    configuration: String,
    webhook: ValidatingWebhook,
}

impl Webhook {
    /// The Service that is asked; none if it is a URL.
    pub(super) fn service(&self) -> Option<&ServiceReference> {
        self.webhook.client_config.service.as_ref()
    }

    fn fails_closed(&self) -> bool {
        // The default of the API.
        self.webhook.failure_policy.as_deref().unwrap_or(FAIL) == FAIL
    }

    /// A finding about a webhook that cannot be asked.
    fn unusable(&self, check: Check, problem: String, remedy: &str) -> Finding {
        let found = format!("{}: {problem}", self.configuration);
        if self.fails_closed() {
            let cost = "the API server refuses new and changed ImageCaches (failurePolicy Fail)";
            Finding::advice(check, found, cost, remedy).into_failed()
        } else {
            let cost = "invalid ImageCaches are accepted without a review (failurePolicy Ignore); the controller reports \
                        them later";
            Finding::advice(check, found, cost, remedy)
        }
    }
}

/// The webhooks that review ImageCaches.
pub(super) fn webhooks(all: &[ValidatingWebhookConfiguration]) -> Vec<Webhook> {
    let mut found = Vec::new();
    for configuration in all {
        for webhook in configuration.webhooks.iter().flatten() {
            let mut rules = webhook.rules.iter().flatten();
            let of_ours = rules.any(|rule| {
                let has = |list: &Option<Vec<String>>, name: &str| {
                    list.iter().flatten().any(|entry| entry == name)
                };
                has(&rule.api_groups, GROUP) && has(&rule.resources, "imagecaches")
            });
            if of_ours {
                found.push(Webhook {
                    configuration: configuration.name_any(),
                    webhook: webhook.clone(),
                });
            }
        }
    }
    found
}

pub(super) fn configuration(
    webhooks: &Fact<Vec<Webhook>>,
    deployments: &Fact<Vec<Deployment>>,
) -> Finding {
    let check = checks::WEBHOOK_CONFIGURATION;
    let webhooks = match webhooks {
        Ok(webhooks) => webhooks,
        Err(unread) => return Finding::skipped(check, unread),
    };
    if let ([], Err(unread)) = (webhooks.as_slice(), deployments) {
        return Finding::skipped(check, unread);
    }
    let deployments = deployments.as_ref().map(Vec::as_slice).unwrap_or_default();
    let runs = !of_component(deployments, Component::WebhookServer).is_empty();
    if webhooks.is_empty() && runs {
        return Finding::advice(
            check,
            "a webhook server is installed, and no ValidatingWebhookConfiguration names it",
            "ImageCaches are not reviewed; the controller reports invalid ones later",
            "set validatingWebhook.create to true, or webhookServer.enable to false",
        );
    }
    if webhooks.is_empty() {
        let found = "no webhook is installed (webhookServer.enable); the definitions have the most important rules";
        return Finding::ok(check, found);
    }
    let named: Vec<String> = webhooks
        .iter()
        .map(|one| {
            let policy = one.webhook.failure_policy.as_deref().unwrap_or(FAIL);
            let timeout = one.webhook.timeout_seconds.unwrap_or(10);
            format!("{}: failurePolicy {policy}, {timeout}s", one.configuration)
        })
        .collect();
    Finding::ok(check, some_of(&named))
}

/// What the checks of each webhook say together: the worst of them.
fn worst(
    check: Check,
    webhooks: &Fact<Vec<Webhook>>,
    judge: impl Fn(&Webhook) -> Finding,
) -> Finding {
    let webhooks = match webhooks {
        Ok(webhooks) => webhooks,
        Err(unread) => return Finding::skipped(check, unread),
    };
    let findings = webhooks.iter().map(judge);
    let worst = findings.min_by_key(|finding| finding.result);
    worst.unwrap_or_else(|| Finding::skipped(check, "not checked: no webhook is installed"))
}

pub(super) fn ca_bundle(webhooks: &Fact<Vec<Webhook>>, now: Timestamp) -> Finding {
    let check = checks::WEBHOOK_CA_BUNDLE;
    worst(check, webhooks, |one| {
        let remedy = "the webhook server, or cert-manager's cainjector, writes the bundle: read its log; webhook-access \
                      shows whether the server may. With webhookServer.ownCertificate, set validatingWebhookCABundle";
        let bundle = one.webhook.client_config.ca_bundle.as_ref();
        let bundle = bundle.map(|bytes| bytes.0.as_slice()).unwrap_or_default();
        if bundle.is_empty() {
            return one.unusable(check, "caBundle is empty".to_owned(), remedy);
        }
        let expiries = match expiries(bundle) {
            Ok(expiries) => expiries,
            Err(problem) => return one.unusable(check, format!("caBundle: {problem}"), remedy),
        };
        let Some(last) = expiries.iter().max() else {
            return one.unusable(check, "caBundle has no certificate".to_owned(), remedy);
        };
        let left = last.as_second().saturating_sub(now.as_second());
        if left <= 0 {
            let problem = format!("caBundle has expired {} ago", span(left.saturating_abs()));
            return one.unusable(check, problem, remedy);
        }
        let found = format!(
            "{}: caBundle has {}, valid for {}",
            one.configuration,
            pluralised(expiries.len(), "certificate"),
            span(left)
        );
        if left < EXPIRY_SECONDS {
            let cost = "then the API server cannot ask the webhook any more";
            return Finding::advice(check, found, cost, remedy);
        }
        Finding::ok(check, found)
    })
}

/// The ends of validity of the certificates in a bundle.
fn expiries(bundle: &[u8]) -> Result<Vec<Timestamp>, String> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|error| format!("not PEM: {error}"))?;
        let parsed = X509Certificate::from_der(&certificate);
        let (_, parsed) = parsed.map_err(|error| format!("not a certificate: {error}"))?;
        let seconds = parsed.validity().not_after.timestamp();
        found.push(Timestamp::from_second(seconds).map_err(|error| error.to_string())?);
    }
    Ok(found)
}

/// A Service of a webhook, with its EndpointSlices.
#[derive(Debug)]
pub(super) struct WebhookService {
    pub(super) name: ServiceReference,
    pub(super) service: Fact<Option<Service>>,
    pub(super) slices: Fact<Vec<EndpointSlice>>,
}

pub(super) fn endpoints(webhooks: &Fact<Vec<Webhook>>, services: &[WebhookService]) -> Finding {
    let check = checks::WEBHOOK_ENDPOINTS;
    worst(check, webhooks, |one| {
        let Some(name) = one.service() else {
            let found = format!("not checked: {} names a URL, no Service", one.configuration);
            return Finding::skipped(check, found);
        };
        let Some(found) = services.iter().find(|service| service.name == *name) else {
            return Finding::skipped(check, "not checked: the Service was not read");
        };
        let full = format!("{}/{}", name.namespace, name.name);
        match &found.service {
            Ok(Some(_)) => {}
            Ok(None) => {
                let remedy = "install the webhook server again (webhookServer.enable, webhookService.create), or delete \
                              the ValidatingWebhookConfiguration";
                return one.unusable(check, format!("there is no Service {full}"), remedy);
            }
            Err(unread) => return Finding::skipped(check, unread),
        }
        let slices = match &found.slices {
            Ok(slices) => slices,
            Err(unread) => return Finding::skipped(check, unread),
        };
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        let ready = endpoints.filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|all| all.ready).unwrap_or(true)
        });
        match ready.count() {
            0 => {
                let remedy = "the webhook server's pods are not Ready: `kubectl get pods` and `kubectl logs` in its \
                              namespace show why";
                one.unusable(
                    check,
                    format!("Service {full} has no ready endpoint"),
                    remedy,
                )
            }
            count => {
                let found = format!("Service {full} has {}", pluralised(count, "ready endpoint"));
                Finding::ok(check, found)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::doctor::Verdict;
    use crate::remote::cluster_doctor::reader::{Unread, request};

    /// A self-signed certificate on the curve P-256, valid until 2126-11-07T03:59:53Z.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBfDCCASGgAwIBAgIUGPDIkV41ttFzWTVocinEZ2FsdTkwCgYIKoZIzj0EAwIw\n\
EjEQMA4GA1UEAwwHd2ViaG9vazAgFw0yNjEyMDEwMzU5NTNaGA8yMTI2MTEwNzAz\n\
NTk1M1owEjEQMA4GA1UEAwwHd2ViaG9vazBZMBMGByqGSM49AgEGCCqGSM49AwEH\n\
A0IABFumL+KFyQHfc5mQWWBNGZBPnQxOs1uVl0YYr2GPOeKue0EkHSXSmg0rlJfb\n\
rLavMacCVitRgZmJHSK+ATM8YmajUzBRMB0GA1UdDgQWBBT2V9eCrz/rmO3maDX2\n\
rosj4Xq9szAfBgNVHSMEGDAWgBT2V9eCrz/rmO3maDX2rosj4Xq9szAPBgNVHRMB\n\
Af8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQCZ664zAAGSCiz54CC3/J62m6zI\n\
frbNK4oMbzJxKlX1UwIhAOTTHWVg66FoARU3OxaQ7XWrx6k13nzQb5DKAE0wWf52\n\
-----END CERTIFICATE-----\n\
";
    const NOW: &str = "2027-01-01T00:00:00Z";

    fn mk_webhooks(change: impl FnOnce(&mut Value)) -> Fact<Vec<Webhook>> {
        let mut object = json!({
            "metadata": { "name": "kubefledged-webhook-server" },
            "webhooks": [{
                "name": "validate-image-cache.kubefledged.io", "admissionReviewVersions": ["v1"],
                "sideEffects": "None", "failurePolicy": "Fail", "timeoutSeconds": 5,
                "clientConfig": { "service": { "namespace": "kube-fledged", "name": "webhook", "port": 3443 } },
                "rules": [{ "apiGroups": ["kubefledged.io"], "apiVersions": ["v1alpha2"],
                    "operations": ["CREATE"], "resources": ["imagecaches"] }],
            }],
        });
        change(&mut object);
        let mut object: ValidatingWebhookConfiguration = serde_json::from_value(object).unwrap();
        let config = &mut object.webhooks.as_mut().unwrap()[0].client_config;
        config
            .ca_bundle
            .get_or_insert_with(|| k8s_openapi::ByteString(CERTIFICATE.as_bytes().to_vec()));
        Ok(webhooks(&[object]))
    }

    fn judge_bundle(bundle: &str, policy: &str, now: &str) -> Finding {
        let mut found = mk_webhooks(|c| c["webhooks"][0]["failurePolicy"] = policy.into()).unwrap();
        let bundle = k8s_openapi::ByteString(bundle.as_bytes().to_vec());
        found[0].webhook.client_config.ca_bundle = Some(bundle);
        ca_bundle(&Ok(found), now.parse().unwrap())
    }

    #[test]
    fn only_webhooks_for_image_caches_are_judged() {
        assert_eq!(mk_webhooks(|_| {}).unwrap().len(), 1);
        let other = mk_webhooks(|c| c["webhooks"][0]["rules"][0]["apiGroups"] = json!(["apps"]));
        assert!(other.unwrap().is_empty());
    }

    #[test]
    fn the_configuration_is_shown_with_its_policy() {
        let finding = configuration(&mk_webhooks(|_| {}), &Ok(Vec::new()));
        assert_eq!(
            finding.found,
            "kubefledged-webhook-server: failurePolicy Fail, 5s"
        );
        assert_eq!(
            configuration(&Ok(Vec::new()), &Ok(Vec::new())).result,
            Verdict::Ok
        );
        let server = json!({
            "metadata": {}, "spec": { "selector": {}, "template": {
                "metadata": { "labels": { "kubefledged": "kubefledged-webhook-server" } } } },
        });
        let server = serde_json::from_value(server).unwrap();
        assert_eq!(
            configuration(&Ok(Vec::new()), &Ok(vec![server])).result,
            Verdict::Advice
        );
    }

    #[test]
    fn a_bundle_must_have_a_valid_certificate() {
        let good = judge_bundle(CERTIFICATE, "Fail", NOW);
        assert_eq!(good.result, Verdict::Ok, "{good:?}");
        assert!(
            good.found.contains("1 certificate, valid for 99y"),
            "{good:?}"
        );
        for (bundle, now, words) in [
            ("", NOW, "caBundle is empty"),
            ("text", NOW, "no certificate"),
            (
                "-----BEGIN CERTIFICATE-----\nMTIz\n-----END CERTIFICATE-----\n",
                NOW,
                "not a certificate",
            ),
            (CERTIFICATE, "2150-01-01T00:00:00Z", "has expired"),
        ] {
            let finding = judge_bundle(bundle, "Fail", now);
            assert_eq!(finding.result, Verdict::Failed, "{words}: {finding:?}");
            assert!(finding.found.contains(words), "{words}: {finding:?}");
            assert_eq!(judge_bundle(bundle, "Ignore", now).result, Verdict::Advice);
        }
    }

    #[test]
    fn a_service_needs_a_ready_endpoint() {
        let webhooks = mk_webhooks(|_| {});
        let name = webhooks.as_ref().unwrap()[0].service().unwrap().clone();
        let slice = |ready: Value| -> EndpointSlice {
            let object = json!({ "addressType": "IPv4", "metadata": {},
                "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": ready } }] });
            serde_json::from_value(object).unwrap()
        };
        let judge = |service: Fact<Option<Service>>, slices: Fact<Vec<EndpointSlice>>| {
            let name = name.clone();
            endpoints(
                &webhooks,
                &[WebhookService {
                    name,
                    service,
                    slices,
                }],
            )
        };
        let exists = || Ok(Some(Service::default()));
        let finding = judge(exists(), Ok(vec![slice(json!(true)), slice(json!(false))]));
        assert_eq!(
            finding.found,
            "Service kube-fledged/webhook has 1 ready endpoint"
        );
        assert_eq!(
            judge(exists(), Ok(vec![slice(json!(false))])).result,
            Verdict::Failed
        );
        assert_eq!(judge(exists(), Ok(Vec::new())).result, Verdict::Failed);
        assert_eq!(judge(Ok(None), Ok(Vec::new())).result, Verdict::Failed);
        let what = request(
            "list",
            "endpointslices.discovery.k8s.io",
            Some("kube-fledged"),
            None,
        );
        let finding = judge(exists(), Err(Unread::Forbidden(what)));
        assert_eq!(finding.result, Verdict::Skipped);
        assert_eq!(endpoints(&Ok(Vec::new()), &[]).result, Verdict::Skipped);
    }
}
