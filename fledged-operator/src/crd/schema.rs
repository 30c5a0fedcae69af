//! What the API server itself refuses: limits, patterns and CEL rules that the types can't say.

use fledged_core::model::IMAGES_MAX;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    ValidationRule,
};

/// Entries of `cacheSpec`. With [`IMAGES_MAX`] images of some 60 bytes each an object reaches etcd's
/// limit of 1.5 MiB long before this one; it bounds what the CEL rules may cost.
const GROUPS_MAX: i64 = 1_000;
/// Entries of the small lists: secrets, tolerations, terms of an affinity.
const ENTRIES_MAX: i64 = 100;
/// Longest reference: name (255), tag (128), the longest digest (136), separators.
const REFERENCE_MAX: i64 = 520;
/// Longest key of a label or taint: a DNS subdomain, a slash, 63 characters.
const LABEL_KEY_MAX: i64 = 317;
/// Longest name of a Kubernetes object.
const NAME_MAX: i64 = 253;

/// `[registry[:port]/]repository[:tag][@digest]`, the grammar of `distribution/reference`.
const REFERENCE: &str = concat!(
    r"^(?:(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])",
    r"(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*(?::[0-9]+)?)/)?",
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*",
    r"(?::[\w][\w.-]{0,127})?",
    r"(?:@(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}))?$",
);
/// From `1%` to `100%`.
const PERCENTAGE: &str = "^([1-9][0-9]?|100)%$";
/// A DNS subdomain (RFC 1123).
const NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Adds what the API server checks to the definition of ImageCache.
pub(super) fn refine_image_cache(definition: &mut CustomResourceDefinition) {
    for_each(definition, "spec", |spec| {
        in_list(spec, "cacheSpec", 1, GROUPS_MAX, |group| {
            in_list(group, "images", 1, limit(IMAGES_MAX), |image| {
                image.min_length = Some(1);
                image.max_length = Some(REFERENCE_MAX);
                image.pattern = Some(REFERENCE.to_owned());
            });
            in_field(group, "images", |images| {
                images.x_kubernetes_list_type = Some("set".to_owned());
            });
            in_list(group, "tolerations", 0, ENTRIES_MAX, |toleration| {
                one_of(toleration, "operator", &["", "Equal", "Exists"]);
                in_field(toleration, "key", |key| {
                    key.max_length = Some(LABEL_KEY_MAX)
                });
                let effects = ["", "NoSchedule", "PreferNoSchedule", "NoExecute"];
                one_of(toleration, "effect", &effects);
                rule(
                    toleration,
                    "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
                    "key must be given, unless operator is Exists",
                );
            });
        });
        in_list(spec, "imagePullSecrets", 0, ENTRIES_MAX, |secret| {
            in_field(secret, "name", object_name);
        });
        in_field(spec, "serviceAccountName", object_name);
        in_field(spec, "rollout", |rollout| {
            in_field(rollout, "maxConcurrentNodes", |limit| {
                // Each counts for the type it is about.
                limit.minimum = Some(1.0);
                limit.maximum = Some(f64::from(u32::MAX));
                limit.pattern = Some(PERCENTAGE.to_owned());
            });
        });
    });
}

/// Adds what the API server checks to the definition of NodeImageCache.
pub(super) fn refine_node_image_cache(definition: &mut CustomResourceDefinition) {
    for_each(definition, "spec", |spec| {
        in_field(spec, "images", |images| {
            images.x_kubernetes_list_type = Some("atomic".to_owned());
        });
        in_field(spec, "caches", |caches| {
            caches.x_kubernetes_list_type = Some("atomic".to_owned());
        });
    });
}

/// Says how lists of the statuses are merged, and what numbers of Rust's have no format.
pub(super) fn refine_status(definition: &mut CustomResourceDefinition) {
    for_each(definition, "status", |status| {
        in_field(status, "images", |images| {
            images.x_kubernetes_list_type = Some("atomic".to_owned());
        });
        in_field(status, "conditions", |conditions| {
            conditions.x_kubernetes_list_type = Some("map".to_owned());
            conditions.x_kubernetes_list_map_keys = Some(vec!["type".to_owned()]);
        });
    });
}

fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn object_name(schema: &mut JSONSchemaProps) {
    schema.min_length = Some(1);
    schema.max_length = Some(NAME_MAX);
    schema.pattern = Some(NAME.to_owned());
}

fn one_of(schema: &mut JSONSchemaProps, field: &str, words: &[&str]) {
    in_field(schema, field, |field| {
        field.enum_ = Some(words.iter().map(|word| JSON((*word).into())).collect());
    });
}

fn rule(schema: &mut JSONSchemaProps, rule: &str, message: &str) {
    let rules = schema.x_kubernetes_validations.get_or_insert_default();
    rules.push(ValidationRule {
        rule: rule.to_owned(),
        message: Some(message.to_owned()),
        ..ValidationRule::default()
    });
}

/// Kubernetes knows signed formats only and warns of others; the bound of zero stays.
pub(super) fn refine_numbers(definition: &mut CustomResourceDefinition) {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut();
        if let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            signed(schema);
        }
    }
}

fn signed(schema: &mut JSONSchemaProps) {
    if let Some(format) = schema.format.as_mut().filter(|f| f.starts_with("uint")) {
        *format = "int64".to_owned();
    }
    for property in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        signed(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        signed(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        signed(values);
    }
}

fn for_each(
    definition: &mut CustomResourceDefinition,
    part: &str,
    mut change: impl FnMut(&mut JSONSchemaProps),
) {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut();
        if let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            in_field(schema, part, &mut change);
        }
    }
}

fn in_field(schema: &mut JSONSchemaProps, field: &str, change: impl FnOnce(&mut JSONSchemaProps)) {
    let properties = schema.properties.as_mut();
    if let Some(schema) = properties.and_then(|properties| properties.get_mut(field)) {
        change(schema);
    }
}

fn in_list(
    schema: &mut JSONSchemaProps,
    field: &str,
    min: i64,
    max: i64,
    change: impl FnOnce(&mut JSONSchemaProps),
) {
    in_field(schema, field, |list| {
        list.min_items = Some(min).filter(|min| *min > 0);
        list.max_items = Some(max);
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = list.items.as_mut() {
            change(items);
        }
    });
}
