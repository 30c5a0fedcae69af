//! The CustomResourceDefinitions: generated from the types, refined with limits and CEL rules, and installed.

use std::fmt::Debug;
use std::time::Duration;

use fledged_core::model::{IMAGES_MAX, PULL_SECRETS_MAX, SELECTORS_MAX, SUPERSEDED_MAX};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    ValidationRule,
};
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::wait::conditions::is_crd_established;
use kube::runtime::wait::{self, await_condition};
use kube::{Api, Client, CustomResourceExt, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::crd::image_cache::ACTION_VALUE_MAX;
use crate::crd::image_cache::ImageCache;
use crate::crd::node_image_cache::NodeImageCache;

/// The definitions of [`ImageCache`] and [`NodeImageCache`], in this order, with the validation rules of the API
/// server.
#[must_use]
pub fn definitions() -> [CustomResourceDefinition; 2] {
    let mut caches = ImageCache::crd();
    refine_image_cache(&mut caches);
    let mut nodes = NodeImageCache::crd();
    refine_node_image_cache(&mut nodes);
    for definition in [&mut caches, &mut nodes] {
        refine_status(definition);
        refine_numbers(definition);
        let labels = definition.metadata.labels.get_or_insert_default();
        labels.insert("app".to_owned(), "kubefledged".to_owned());
    }
    [caches, nodes]
}

/// [`definitions`] as YAML documents.
///
/// # Errors
///
/// A definition cannot be serialized as YAML.
pub fn definitions_yaml() -> Result<String, serde_saphyr::ser::Error> {
    let mut text = String::new();
    for definition in definitions() {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&definition)?);
    }
    Ok(text)
}

/// Largest number of entries of `cacheSpec`. It bounds the estimated cost of the CEL rules; an object reaches etcd's
/// limit of 1.5 MiB first.
const GROUPS_MAX: i64 = 500;
/// Largest number of images, or of ImageCaches, in a NodeImageCache. The planner keeps a record far below.
const RECORD_ENTRIES_MAX: i64 = 20_000;
/// Longest value of a label or taint, and longest reason.
const LABEL_VALUE_MAX: i64 = 63;
/// Longest message in a status. Controller and agents write shorter ones.
const MESSAGE_MAX: i64 = 1_024;
/// Longest digest: `sha512:` and 128 digits, with room for others.
const DIGEST_MAX: i64 = 200;
/// `algorithm:digits`.
const DIGEST: &str = "^sha[0-9]+:[0-9a-f]+$";
/// Longest reference: name (255), tag (128), the longest digest (136), separators.
const REFERENCE_MAX: i64 = 520;
/// Longest key of a label or taint: a DNS subdomain, a slash, 63 characters.
const LABEL_KEY_MAX: i64 = 317;
/// Longest name of a Kubernetes object.
const NAME_MAX: i64 = 253;

/// What the API server checks of an image reference, each with a message. The webhook and the controller check the
/// rest. The estimated cost of a rule counts for each of a million images, which leaves room for nothing that reads
/// the whole text; the message for a `pattern` would be the pattern.
const REFERENCE: [(&str, &str); 3] = [
    (
        "!self.startsWith(' ') && !self.endsWith(' ')",
        "must be an image reference without spaces around it, for example registry.example.com/team/app:1.2",
    ),
    (
        "!self.startsWith('https://') && !self.startsWith('http://')",
        "must begin with the registry or the repository, without https://, for example registry.example.com/team/app:1.2",
    ),
    (
        "!self.endsWith(':') && !self.endsWith('/') && !self.endsWith('@')",
        "must end with a repository, a tag or a digest, for example registry.example.com/team/app:1.2",
    ),
];
/// A positive duration in Go's syntax.
const DURATION: &str = "^([0-9]+([.][0-9]+)?(ms|s|m|h))+$";
/// Longest text of a duration.
const DURATION_MAX: i64 = 32;
/// Whether a text is from `1%` to `100%`. A number differs from its text.
const IS_PERCENTAGE: &str = "self != string(self) || self.matches('^([1-9][0-9]?|100)%$')";
/// Lowest and highest pull rate that is written as a number, in bytes a second: 64 KiB and 1 TiB.
const PULL_RATES: [f64; 2] = [65_536.0, 1_099_511_627_776.0];
/// Longest text of a quantity.
const QUANTITY_MAX: i64 = 32;
/// Whether a text is a quantity of bytes above zero. The webhook and the controller check the rest.
const IS_PULL_RATE: &str = "self != string(self) || (self.matches('^[0-9]+([.][0-9]{1,3})?([kMGT]|[KMGT]i)?$') && \
                            self.matches('[1-9]'))";
/// Whether it is a DNS subdomain (RFC 1123).
const IS_NAME: &str =
    r"self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')";

/// Adds the validation rules of ImageCache.
pub(super) fn refine_image_cache(definition: &mut CustomResourceDefinition) {
    for_each(definition, "spec", |spec| {
        in_list(spec, "cacheSpec", 1, GROUPS_MAX, |group| {
            // The descriptions of the types have no defaults.
            describe(
                group,
                "imagePullPolicy",
                "When an image that is present is pulled again: `IfNotPresent` pulls mutable tags at each refresh, \
                 `Always` pulls every image at each refresh. Default: the controller's --image-pull-policy, which is \
                 IfNotPresent.",
            );
            describe(
                group,
                "tolerations",
                "Taints that are tolerated, as in a pod. Default: every taint except those of control-plane nodes.",
            );
            describe(
                group,
                "deadline",
                "Longest duration of the pull of one image of this entry, for example `30m`. Default: `spec.deadline`.",
            );
            in_field(group, "deadline", pull_deadline);
            describe(
                group,
                "nodeSelector",
                "Labels that a node must have. Default: all nodes.",
            );
            in_list(group, "images", 1, limit(IMAGES_MAX), |image| {
                image.min_length = Some(1);
                image.max_length = Some(REFERENCE_MAX);
                for (check, message) in REFERENCE {
                    rule(image, check, message);
                }
            });
            in_field(group, "images", |images| {
                images.x_kubernetes_list_type = Some("set".to_owned());
            });
            in_field(group, "nodeSelector", |labels| {
                labels.max_properties = Some(limit(SELECTORS_MAX));
                if let Some(JSONSchemaPropsOrBool::Schema(value)) =
                    labels.additional_properties.as_mut()
                {
                    value.max_length = Some(LABEL_VALUE_MAX);
                }
                let longest = format!("self.all(key, size(key) <= {LABEL_KEY_MAX})");
                let message = format!("keys of labels have at most {LABEL_KEY_MAX} characters");
                rule(labels, &longest, &message);
            });
            in_field(group, "nodeAffinity", |affinity| {
                let required = "requiredDuringSchedulingIgnoredDuringExecution";
                in_field(affinity, required, |selector| {
                    in_list(
                        selector,
                        "nodeSelectorTerms",
                        0,
                        limit(SELECTORS_MAX),
                        node_selector_term,
                    );
                });
            });
            in_list(
                group,
                "tolerations",
                0,
                limit(SELECTORS_MAX),
                |toleration| {
                    one_of(toleration, "operator", &["", "Equal", "Exists"]);
                    longest(toleration, "key", LABEL_KEY_MAX);
                    longest(toleration, "value", LABEL_VALUE_MAX);
                    let effects = ["", "NoSchedule", "PreferNoSchedule", "NoExecute"];
                    one_of(toleration, "effect", &effects);
                    rule(
                        toleration,
                        "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
                        "key must be given, unless operator is Exists",
                    );
                },
            );
        });
        in_list(
            spec,
            "imagePullSecrets",
            0,
            limit(PULL_SECRETS_MAX),
            |secret| {
                in_field(secret, "name", |name| object_name(name, "Secret"));
            },
        );
        in_field(spec, "serviceAccountName", |name| {
            object_name(name, "ServiceAccount");
        });
        in_field(spec, "deadline", pull_deadline);
        describe(
            spec,
            "deletionPolicy",
            "What happens to the images when the ImageCache is deleted: `Retain` (the default) leaves them on the \
             nodes, `Purge` removes first those that no other ImageCache lists and no container uses.",
        );
        in_field(spec, "rollout", |rollout| {
            describe(
                rollout,
                "maxConcurrentNodes",
                "Largest number of nodes that pull for this ImageCache at the same time: a number, or a percentage \
                 of the nodes that it selects. Default: only the controller's --max-concurrent-nodes limits it.",
            );
            in_field(rollout, "maxConcurrentNodes", |limit| {
                // Each rule applies to one of the two types, integer or string.
                limit.minimum = Some(1.0);
                limit.maximum = Some(f64::from(u32::MAX));
                rule(
                    limit,
                    IS_PERCENTAGE,
                    "must be a number of nodes, for example 10, or a percentage from \"1%\" to \"100%\"",
                );
            });
            describe(
                rollout,
                "maxPullRatePerNode",
                "Largest number of bytes of layers that each node receives in a second for this ImageCache, for example \
                 `20Mi`, at least `64Ki`. Of several ImageCaches with the same image, the highest rate counts, and none \
                 if one of them has none. It is not kept where the container runtime pulls by itself: without \
                 --pull-via=auto, with CRI-O and Docker Engine, and with Jobs. Default: no limit.",
            );
            in_field(rollout, "maxPullRatePerNode", |rate| {
                [rate.minimum, rate.maximum] = PULL_RATES.map(Some);
                rate.max_length = Some(QUANTITY_MAX);
                rule(
                    rate,
                    IS_PULL_RATE,
                    "must be a number of bytes a second of at least 64Ki, for example 20Mi",
                );
            });
        });
    });
}

/// Sets the description of a field.
fn describe(schema: &mut JSONSchemaProps, name: &str, text: &str) {
    in_field(schema, name, |field| {
        field.description = Some(text.to_owned());
    });
}

fn pull_deadline(schema: &mut JSONSchemaProps) {
    schema.max_length = Some(DURATION_MAX);
    rule(
        schema,
        &format!(
            "self.matches('{DURATION}') && duration(self) >= duration('1s') && duration(self) <= duration('24h')"
        ),
        "must be a duration from 1s to 24h, for example 30m",
    );
}

fn node_selector_term(term: &mut JSONSchemaProps) {
    for list in ["matchExpressions", "matchFields"] {
        in_list(term, list, 0, limit(SELECTORS_MAX), |requirement| {
            longest(requirement, "key", LABEL_KEY_MAX);
            longest(requirement, "operator", LABEL_VALUE_MAX);
            in_list(requirement, "values", 0, limit(SELECTORS_MAX), |value| {
                // A field can be the name of a node.
                value.max_length = Some(NAME_MAX);
            });
        });
    }
}

/// Adds the limits and list types of NodeImageCache.
pub(super) fn refine_node_image_cache(definition: &mut CustomResourceDefinition) {
    let secrets = limit(PULL_SECRETS_MAX);
    for_each(definition, "spec", |spec| {
        in_list(spec, "images", 0, RECORD_ENTRIES_MAX, |image| {
            longest(image, "image", REFERENCE_MAX);
            for names in ["pullSecrets", "serviceAccounts"] {
                in_list(image, names, 0, RECORD_ENTRIES_MAX, |name| {
                    name.max_length = Some(2 * NAME_MAX + 1);
                });
            }
            in_list(image, "wantedBy", 0, RECORD_ENTRIES_MAX, |uid| {
                uid.max_length = Some(NAME_MAX);
            });
            longest(image, "maxPullRateOf", NAME_MAX);
            in_field(image, "removal", |removal| {
                for field in ["namespace", "name", "uid"] {
                    longest(removal, field, NAME_MAX);
                }
            });
        });
        in_field(spec, "images", atomic);
        in_list(spec, "caches", 0, RECORD_ENTRIES_MAX, |cache| {
            for field in ["namespace", "name", "uid"] {
                longest(cache, field, NAME_MAX);
            }
            for names in ["pullSecrets", "serviceAccounts"] {
                in_list(cache, names, 0, secrets, |name| {
                    name.max_length = Some(NAME_MAX)
                });
            }
        });
        in_field(spec, "caches", atomic);
    });
    for_each(definition, "status", |status| {
        in_list(status, "images", 0, RECORD_ENTRIES_MAX, |image| {
            longest(image, "image", REFERENCE_MAX);
            longest(image, "digest", DIGEST_MAX);
            longest(image, "via", LABEL_VALUE_MAX);
            longest(image, "viaReason", MESSAGE_MAX);
            longest(image, "reason", LABEL_VALUE_MAX);
            longest(image, "message", MESSAGE_MAX);
            in_list(image, "superseded", 0, limit(SUPERSEDED_MAX), |digest| {
                digest.max_length = Some(DIGEST_MAX);
                digest.pattern = Some(DIGEST.to_owned());
            });
        });
        in_field(status, "images", atomic);
    });
}

/// Sets limits and the merge type of the conditions in the statuses.
pub(super) fn refine_status(definition: &mut CustomResourceDefinition) {
    for_each(definition, "status", |status| {
        in_field(status, "lastActions", |last| {
            for field in ["refresh", "purge"] {
                longest(last, field, limit(ACTION_VALUE_MAX));
            }
        });
        in_field(status, "conditions", |conditions| {
            conditions.max_items = Some(limit(SELECTORS_MAX));
            conditions.x_kubernetes_list_type = Some("map".to_owned());
            conditions.x_kubernetes_list_map_keys = Some(vec!["type".to_owned()]);
        });
    });
}

fn atomic(list: &mut JSONSchemaProps) {
    list.x_kubernetes_list_type = Some("atomic".to_owned());
}

fn longest(schema: &mut JSONSchemaProps, field: &str, max: i64) {
    in_field(schema, field, |field| field.max_length = Some(max));
}

fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn object_name(schema: &mut JSONSchemaProps, kind: &str) {
    schema.min_length = Some(1);
    schema.max_length = Some(NAME_MAX);
    let message = format!(
        "must be the name of a {kind}: lower-case letters, digits, '-' and '.', starting and ending with a letter or digit"
    );
    rule(schema, IS_NAME, &message);
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

/// Replaces unsigned number formats, which Kubernetes does not know. The minimum of 0 stays.
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

/// Field manager of the definitions.
pub const INSTALLER: &str = "fledged-installer";
/// Limit for a definition to be established; an API server needs a second or two.
const ESTABLISHED_LIMIT: Duration = Duration::from_secs(30);
/// Interval between checks whether the resources are served; an API server needs some hundred milliseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why the definitions could not be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// The API server rejected it.
    #[error("cannot apply the CustomResourceDefinition {name}: {source}")]
    Apply {
        /// Its name.
        name: String,
        /// The error of the API server.
        source: Box<kube::Error>,
    },
    /// Its status could not be watched.
    #[error("cannot watch the CustomResourceDefinition {name}: {source}")]
    Watch {
        /// Its name.
        name: String,
        /// The cause.
        source: Box<wait::Error>,
    },
    /// It was applied, but is not established in time.
    #[error("the CustomResourceDefinition {name} is not established within {} s: {problem}", .limit.as_secs())]
    NotEstablished {
        /// Its name.
        name: String,
        /// The limit.
        limit: Duration,
        /// Its conditions that are not true.
        problem: String,
    },
    /// It is established, but its objects cannot be listed in time.
    #[error("{plural} of kubefledged.io cannot be listed within {} s: {problem}", .limit.as_secs())]
    NotServed {
        /// `imagecaches` or `nodeimagecaches`.
        plural: String,
        /// The limit.
        limit: Duration,
        /// The last error of the API server.
        problem: String,
    },
}

/// Applies [`definitions`] and waits until the API server serves them. It is idempotent. Call it before a
/// controller runs. It needs the verbs get, list, watch, create and patch for
/// `customresourcedefinitions` of `apiextensions.k8s.io`.
///
/// It uses server-side apply under the field manager [`INSTALLER`] and takes over fields of other managers, such as
/// `kubectl apply` or a chart. An older version of this crate would revert the changes of a newer one.
///
/// # Errors
///
/// [`InstallError`], which names the definition. Definitions before it have been applied.
pub async fn install(client: &Client) -> Result<(), InstallError> {
    let api = Api::all(client.clone());
    for definition in definitions() {
        apply(&api, &definition).await?;
    }
    for definition in definitions() {
        established(&api, definition.name_any()).await?;
    }
    served::<ImageCache>(client).await?;
    served::<NodeImageCache>(client).await
}

/// Waits until the objects can be listed, which takes a moment after the definition is established.
async fn served<K>(client: &Client) -> Result<(), InstallError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let one = ListParams::default().limit(1);
    let mut seen = "no response".to_owned();
    let listed = async {
        while let Err(error) = api.list_metadata(&one).await {
            seen = error.to_string();
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let in_time = tokio::time::timeout(ESTABLISHED_LIMIT, listed).await;
    in_time.map_err(|_| InstallError::NotServed {
        plural: K::plural(&()).into_owned(),
        limit: ESTABLISHED_LIMIT,
        problem: seen,
    })
}

async fn apply(
    api: &Api<CustomResourceDefinition>,
    definition: &CustomResourceDefinition,
) -> Result<(), InstallError> {
    let name = definition.name_any();
    let params = PatchParams::apply(INSTALLER).force();
    let applied = api.patch(&name, &params, &Patch::Apply(definition)).await;
    applied.map(drop).map_err(|source| InstallError::Apply {
        name,
        source: Box::new(source),
    })
}

async fn established(
    api: &Api<CustomResourceDefinition>,
    name: String,
) -> Result<(), InstallError> {
    let waiting = await_condition(api.clone(), &name, is_crd_established());
    match tokio::time::timeout(ESTABLISHED_LIMIT, waiting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(source)) => Err(InstallError::Watch {
            name,
            source: Box::new(source),
        }),
        Err(_) => {
            let found = api.get_opt(&name).await.ok().flatten();
            Err(InstallError::NotEstablished {
                problem: problem(found.as_ref()),
                limit: ESTABLISHED_LIMIT,
                name,
            })
        }
    }
}

/// The conditions that are not true, for example names that conflict with another definition.
fn problem(found: Option<&CustomResourceDefinition>) -> String {
    let conditions = found
        .and_then(|definition| definition.status.as_ref()?.conditions.as_ref())
        .into_iter()
        .flatten();
    let problems: Vec<String> = conditions
        .filter(|condition| condition.status != "True")
        .map(|condition| {
            let message = condition.message.as_deref().unwrap_or_default();
            format!("{} is {}: {message}", condition.type_, condition.status)
        })
        .collect();
    if problems.is_empty() {
        "it has no condition with the cause".to_owned()
    } else {
        problems.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_explain_an_unestablished_definition() {
        let [mut definition, _] = definitions();
        assert!(problem(None).contains("no condition"));
        definition.status = serde_json::from_value(json!({
            "acceptedNames": { "kind": "", "plural": "" },
            "conditions": [
                { "type": "NamesAccepted", "status": "False", "message": "\"ic\" is already in use" },
                { "type": "Established", "status": "False", "message": "not all names are accepted" },
            ],
        }))
        .unwrap();
        let text = problem(Some(&definition));
        assert!(
            text.starts_with("NamesAccepted is False: \"ic\" is already in use; "),
            "{text}"
        );
    }
}
