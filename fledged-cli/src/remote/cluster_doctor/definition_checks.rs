//! The CustomResourceDefinitions: whether they have the version and the fields that this program knows.

use fledged_kube::crd::VERSION;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps,
    JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::ResourceExt as _;

use super::checks;
use super::installation::some_of;
use super::reader::Fact;
use crate::doctor::{Check, Finding};

const REMEDY: &str = "kubectl apply --server-side -f deploy/kubefledged-crd.yaml, or the output of `fledged-operator crds`; \
                      with the chart, crds.install=true";

/// What is read of a definition; `None` if it does not exist.
pub(super) type Definition = Fact<Option<CustomResourceDefinition>>;

/// Compares a definition with the one that this program would install.
pub(super) fn definition(
    check: Check,
    found: &Definition,
    expected: &CustomResourceDefinition,
) -> Finding {
    let name = expected.name_any();
    let failed = |problem: String, cost: &str| {
        Finding::advice(check, format!("{name}: {problem}"), cost, REMEDY).into_failed()
    };
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => {
            let cost = "the API server does not know the resource: nothing works";
            return failed("not installed".to_owned(), cost);
        }
        Err(unread) => return Finding::skipped(check, unread),
    };
    if found.metadata.deletion_timestamp.is_some() {
        let cost = "the API server deletes every object of the definition";
        return failed("is being deleted".to_owned(), cost);
    }
    let unserved = "the API server does not serve the version that this program reads";
    let (Some(served), Some(needed)) = (version(found), version(expected)) else {
        return failed(format!("has no version {VERSION}"), unserved);
    };
    if !served.served {
        return failed(format!("{VERSION} is not served"), unserved);
    }
    if let Some(reason) = not_established(found) {
        return failed(format!("not established: {reason}"), unserved);
    }
    let has_status = |version: &CustomResourceDefinitionVersion| {
        let parts = version.subresources.as_ref();
        parts.is_some_and(|parts| parts.status.is_some())
    };
    let mut missing = Vec::new();
    if has_status(needed) && !has_status(served) {
        missing.push("subresources.status".to_owned());
    }
    if let (Some(needed), Some(served)) = (schema(needed), schema(served)) {
        missing_fields(needed, served, "", &mut missing);
    }
    if !missing.is_empty() {
        let problem = format!(
            "older than this program; without, or with another type: {}",
            some_of(&missing)
        );
        return failed(
            problem,
            "the API server refuses or drops these fields: statuses and reports do not change",
        );
    }
    let mut more = Vec::new();
    if let (Some(needed), Some(served)) = (schema(needed), schema(served)) {
        missing_fields(served, needed, "", &mut more);
    }
    Finding::ok(
        check,
        match more.as_slice() {
            [] => format!("{name} {VERSION} is served, with the fields of this program"),
            more => format!(
                "{name} {VERSION} is served, newer than this program: also {}",
                some_of(more)
            ),
        },
    )
}

/// Whether objects are stored in versions that the API server can read.
pub(super) fn stored_versions(definitions: [&Definition; 2]) -> Finding {
    let check = checks::CRD_STORED_VERSIONS;
    let mut read = Vec::new();
    for definition in definitions {
        match definition {
            Ok(found) => read.extend(found),
            Err(unread) => return Finding::skipped(check, unread),
        }
    }
    if read.is_empty() {
        return Finding::skipped(check, "not checked: no definition is installed");
    }
    let mut others = Vec::new();
    let mut unreadable = Vec::new();
    for definition in &read {
        let stored = definition.status.iter();
        let stored = stored.flat_map(|status| status.stored_versions.iter().flatten());
        for stored in stored.filter(|stored| *stored != VERSION) {
            let name = format!("{} of {}", stored, definition.name_any());
            let mut versions = definition.spec.versions.iter();
            let exists = versions.any(|version| version.name == *stored);
            if exists { &mut others } else { &mut unreadable }.push(name);
        }
    }
    if !unreadable.is_empty() {
        let found = format!(
            "storedVersions has {}, which the definition lacks",
            some_of(&unreadable)
        );
        return Finding::advice(
            check,
            found,
            "objects that are stored in this version cannot be read",
            REMEDY,
        )
        .into_failed();
    }
    if !others.is_empty() {
        return Finding::advice(
            check,
            format!("storedVersions has {}", some_of(&others)),
            "a definition without this version cannot be applied",
            format!(
                "write every object once (`kubectl get imagecaches -A -o yaml | kubectl replace -f -`), then set \
                 status.storedVersions of the definition to [{VERSION}]"
            ),
        );
    }
    Finding::ok(check, format!("storedVersions is {VERSION}"))
}

fn version(definition: &CustomResourceDefinition) -> Option<&CustomResourceDefinitionVersion> {
    let mut versions = definition.spec.versions.iter();
    versions.find(|version| version.name == VERSION)
}

fn schema(version: &CustomResourceDefinitionVersion) -> Option<&JSONSchemaProps> {
    version.schema.as_ref()?.open_api_v3_schema.as_ref()
}

/// Why the API server does not serve the definition.
fn not_established(definition: &CustomResourceDefinition) -> Option<String> {
    let conditions = definition.status.iter();
    let mut conditions = conditions.flat_map(|status| status.conditions.iter().flatten());
    let unmet = |name: &str| {
        let found = conditions
            .clone()
            .find(|condition| condition.type_ == name && condition.status != "True")?;
        let text = found.message.as_ref().or(found.reason.as_ref());
        Some(
            text.cloned()
                .unwrap_or_else(|| format!("{name} is {}", found.status)),
        )
    };
    let refused = ["NamesAccepted", "Established"].into_iter().find_map(unmet);
    refused.or_else(|| {
        let established = conditions.any(|condition| condition.type_ == "Established");
        (!established).then(|| "no condition Established yet".to_owned())
    })
}

/// The paths of fields that `found` lacks or has with another type.
fn missing_fields(
    needed: &JSONSchemaProps,
    found: &JSONSchemaProps,
    path: &str,
    missing: &mut Vec<String>,
) {
    if found.x_kubernetes_preserve_unknown_fields == Some(true) {
        return;
    }
    if needed.type_ != found.type_ {
        missing.push(path.to_owned());
        return;
    }
    for (name, needed) in needed.properties.iter().flatten() {
        let path = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        match found.properties.as_ref().and_then(|all| all.get(name)) {
            Some(found) => missing_fields(needed, found, &path, missing),
            None => missing.push(path),
        }
    }
    if let (
        Some(JSONSchemaPropsOrArray::Schema(needed)),
        Some(JSONSchemaPropsOrArray::Schema(found)),
    ) = (&needed.items, &found.items)
    {
        missing_fields(needed, found, &format!("{path}[]"), missing);
    }
    if let (
        Some(JSONSchemaPropsOrBool::Schema(needed)),
        Some(JSONSchemaPropsOrBool::Schema(found)),
    ) = (&needed.additional_properties, &found.additional_properties)
    {
        missing_fields(needed, found, &format!("{path}.*"), missing);
    }
}

#[cfg(test)]
mod tests {
    use fledged_kube::crd::definitions;
    use serde_json::{Value, json};

    use super::*;
    use crate::doctor::Verdict;
    use crate::remote::cluster_doctor::reader::{Unread, request};

    /// The definition of ImageCache as an API server has it.
    fn mk_definition(change: impl FnOnce(&mut Value)) -> Definition {
        let [caches, _] = definitions();
        let mut object = serde_json::to_value(caches).unwrap();
        object["status"] = json!({
            "acceptedNames": { "kind": "ImageCache", "plural": "imagecaches" },
            "conditions": [
                { "type": "NamesAccepted", "status": "True" },
                { "type": "Established", "status": "True" },
            ],
            "storedVersions": ["v1alpha2"],
        });
        change(&mut object);
        Ok(Some(serde_json::from_value(object).unwrap()))
    }

    /// The fields of the spec in the schema.
    const SPEC: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";

    type Change = fn(&mut Value);

    fn judge(found: &Definition) -> Finding {
        let [caches, _] = definitions();
        definition(checks::CRD_IMAGE_CACHES, found, &caches)
    }

    #[test]
    fn the_generated_definition_is_ok() {
        let finding = judge(&mk_definition(|_| {}));
        assert_eq!(finding.result, Verdict::Ok, "{finding:?}");
        assert!(!finding.found.contains("newer"), "{finding:?}");
    }

    #[test]
    fn each_fault_of_a_definition_is_named() {
        let cases: [(&str, Change); 6] = [
            ("spec.rollout", |d| {
                let fields = d.pointer_mut(SPEC).unwrap().as_object_mut().unwrap();
                fields.remove("rollout");
            }),
            ("spec.deadline", |d| {
                d.pointer_mut(SPEC).unwrap()["deadline"]["type"] = "integer".into();
            }),
            ("is not served", |d| {
                d["spec"]["versions"][0]["served"] = false.into()
            }),
            ("has no version", |d| {
                d["spec"]["versions"][0]["name"] = "v1".into()
            }),
            ("names conflict", |d| {
                d["status"]["conditions"][0]["status"] = "False".into();
                d["status"]["conditions"][0]["message"] = "names conflict".into();
            }),
            ("is being deleted", |d| {
                d["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }),
        ];
        for (words, change) in cases {
            let finding = judge(&mk_definition(change));
            assert_eq!(finding.result, Verdict::Failed, "{words}: {finding:?}");
            assert!(finding.found.contains(words), "{words}: {finding:?}");
        }
        assert!(judge(&Ok(None)).found.ends_with("not installed"));
    }

    #[test]
    fn a_newer_or_open_definition_is_ok() {
        let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
        let newer = judge(&mk_definition(|d| {
            d.pointer_mut(path).unwrap()["properties"]["extra"] = json!({ "type": "string" });
        }));
        assert_eq!(newer.result, Verdict::Ok);
        assert!(newer.found.ends_with("also spec.extra"), "{newer:?}");
        let open = judge(&mk_definition(|d| {
            *d.pointer_mut(path).unwrap() =
                json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        }));
        assert_eq!(open.result, Verdict::Ok, "{open:?}");
    }

    #[test]
    fn a_definition_that_may_not_be_read_is_skipped() {
        let what = request(
            "get",
            "customresourcedefinitions.apiextensions.k8s.io",
            None,
            Some("a"),
        );
        let forbidden = Err(Unread::Forbidden(what));
        let finding = judge(&forbidden);
        assert_eq!(finding.result, Verdict::Skipped);
        assert!(
            finding.found.contains("no permission to get custom"),
            "{finding:?}"
        );
        assert_eq!(
            stored_versions([&forbidden, &Ok(None)]).result,
            Verdict::Skipped
        );
    }

    #[test]
    fn stored_versions_are_judged_by_what_can_be_read() {
        let of = |stored: Value| {
            let found = mk_definition(|d| d["status"]["storedVersions"] = stored);
            stored_versions([&found, &Ok(None)])
        };
        assert_eq!(of(json!(["v1alpha2"])).result, Verdict::Ok);
        let old = of(json!(["v1alpha1", "v1alpha2"]));
        assert_eq!(old.result, Verdict::Failed, "{old:?}");
        assert!(
            old.found.contains("v1alpha1 of imagecaches.kubefledged.io"),
            "{old:?}"
        );
        let both = mk_definition(|d| {
            let mut first = d["spec"]["versions"][0].clone();
            first["name"] = "v1alpha1".into();
            d["spec"]["versions"].as_array_mut().unwrap().push(first);
            d["status"]["storedVersions"] = json!(["v1alpha1", "v1alpha2"]);
        });
        assert_eq!(stored_versions([&both, &Ok(None)]).result, Verdict::Advice);
        assert_eq!(
            stored_versions([&Ok(None), &Ok(None)]).result,
            Verdict::Skipped
        );
    }
}
