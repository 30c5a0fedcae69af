//! One document of a manifest, from a parsed value to a valid cache.

use fledged_core::model::{CacheId, ImageCache, ImageCacheSpec};
use serde::Deserialize as _;
use serde_ignored::Path;
use serde_json::{Map, Value};

use super::Finding;
use super::finding::Place;
use crate::kube_names::{Label, ParseLabelError, check_namespace, check_object_name};
use crate::output::on_one_line;

/// The only supported version.
const API_VERSION: &str = "kubefledged.io/v1alpha2";

/// The kind of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// An ImageCache.
    ImageCache,
    /// A list of objects, as `kubectl get -o yaml` writes.
    List,
    /// Any other kind, for example one that the same chart contains.
    Other(String),
}

/// The kind, from `apiVersion` and `kind`.
///
/// # Errors
///
/// What is wrong with the two fields.
pub(super) fn kind(value: &Value) -> Result<Kind, String> {
    let Value::Object(fields) = value else {
        return Err(format!(
            "must be an object with apiVersion, kind, metadata and spec, not {}",
            type_of(value)
        ));
    };
    let kind = string(fields, "kind")?;
    if !["ImageCache", "ImageCacheList", "List"].contains(&kind) {
        return Ok(Kind::Other(on_one_line(kind).into_owned()));
    }
    let version = string(fields, "apiVersion")?;
    match (kind, version) {
        ("ImageCache", API_VERSION) => Ok(Kind::ImageCache),
        ("List", "v1") | ("ImageCacheList", API_VERSION) => Ok(Kind::List),
        ("List", other) => Err(format!(
            "apiVersion: {other:?} of a List is not supported: only v1 is"
        )),
        (_, other) => Err(unknown_version(other)),
    }
}

fn unknown_version(version: &str) -> String {
    let remedy = if version.ends_with("/v1alpha1") || version.contains(".k8s.io/") {
        format!(
            "it is from an old kube-fledged; images and nodeSelector are the same in {API_VERSION}, so change apiVersion to that"
        )
    } else {
        format!("only {API_VERSION} is supported")
    };
    format!("apiVersion: {version:?} is not supported: {remedy}")
}

/// Turns an ImageCache document into a valid cache. Unknown fields become warnings.
///
/// `namespace` is used if the document names none.
///
/// # Errors
///
/// Every mistake in the document.
pub(super) fn cache(
    place: &mut Place,
    value: Value,
    namespace: &str,
    warnings: &mut Vec<Finding>,
) -> Result<ImageCache, Vec<Finding>> {
    let Value::Object(mut fields) = value else {
        return Err(vec![Finding::new(place, "must be an object")]);
    };
    let id = id(&fields, &place.file, namespace)
        .map_err(|problem| vec![Finding::new(place, problem)])?;
    place.object = Some(format!("ImageCache {id}"));
    let spec = fields.remove("spec");
    // Other fields of metadata belong to Kubernetes and its users; status is written by a cluster.
    for known in ["apiVersion", "kind", "metadata", "status"] {
        fields.remove(known);
    }
    let unknown = |path: String| {
        let hint = hint(&path).unwrap_or_default();
        let path = on_one_line(&path);
        format!("{path}: unknown field, ignored{hint}")
    };
    for name in fields.keys() {
        warnings.push(Finding::new(place, unknown(name.clone())));
    }
    let spec = match spec {
        Some(spec @ Value::Object(_)) => spec,
        None | Some(Value::Null) => return Err(vec![Finding::new(place, "spec: is missing")]),
        Some(other) => {
            let text = format!("spec: must be an object, not {}", type_of(&other));
            return Err(vec![Finding::new(place, text)]);
        }
    };
    let mut ignored = |path: Path<'_>| {
        let mut text = "spec".to_owned();
        write_path(&path, &mut text);
        warnings.push(Finding::new(place, unknown(text)));
    };
    let mut track = serde_path_to_error::Track::new();
    let result = ImageCacheSpec::deserialize(serde_path_to_error::Deserializer::new(
        serde_ignored::Deserializer::new(&spec, &mut ignored),
        &mut track,
    ));
    let spec = result.map_err(|problem| {
        let path = track.path().to_string();
        let separator = if path == "." || path.starts_with('[') {
            ""
        } else {
            "."
        };
        let path = path.trim_start_matches('.');
        vec![Finding::new(
            place,
            on_one_line(&format!("spec{separator}{path}: {problem}")),
        )]
    })?;
    let mut findings = selectors(place, &spec);
    match spec.validate(id) {
        Ok(cache) if findings.is_empty() => Ok(cache),
        Ok(_) => Err(findings),
        Err(invalid) => {
            findings.extend(invalid.fields.iter().map(|f| Finding::field(place, f)));
            Err(findings)
        }
    }
}

/// Where a field belongs that exists elsewhere in an ImageCache.
fn hint(path: &str) -> Option<&'static str> {
    let name = path.rsplit('.').next()?;
    match name {
        "imagePullSecrets" | "serviceAccountName" | "deletionPolicy" | "rollout" => {
            Some("; it belongs into spec, for all entries of cacheSpec")
        }
        "images" | "nodeSelector" | "nodeAffinity" | "tolerations" | "imagePullPolicy" => {
            Some("; it belongs into an entry of spec.cacheSpec")
        }
        "cacheSpec" => Some("; it belongs into spec"),
        "maxConcurrentNodes" | "maxPullRatePerNode" => Some("; it belongs into spec.rollout"),
        "deadline" => Some("; it belongs into spec, or into an entry of spec.cacheSpec"),
        _ => None,
    }
}

/// Node selectors with invalid labels; they could never select a node.
fn selectors(place: &Place, spec: &ImageCacheSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, entry) in spec.cache_spec.iter().enumerate() {
        for (key, value) in entry.node_selector.iter().flatten() {
            if let Err(problem) = Label::new(key, value) {
                let field = match problem {
                    ParseLabelError::Value(_) => format!(".{}", on_one_line(key)),
                    _ => String::new(),
                };
                let text = format!("spec.cacheSpec[{i}].nodeSelector{field}: {problem}");
                findings.push(Finding::new(place, text));
            }
        }
    }
    findings
}

fn id(fields: &Map<String, Value>, file: &str, default: &str) -> Result<CacheId, String> {
    let metadata = match fields.get("metadata") {
        Some(Value::Object(metadata)) => metadata,
        None | Some(Value::Null) => return Err("metadata: is missing".to_owned()),
        Some(other) => {
            return Err(format!(
                "metadata: must be an object, not {}",
                type_of(other)
            ));
        }
    };
    let in_metadata = |problem| format!("metadata.{problem}");
    let name = string(metadata, "name").map_err(in_metadata)?;
    let namespace = match metadata.get("namespace") {
        None | Some(Value::Null) => default,
        Some(_) => string(metadata, "namespace").map_err(in_metadata)?,
    };
    check_object_name(name).map_err(|rule| format!("metadata.name: {name:?} {rule}"))?;
    check_namespace(namespace)
        .map_err(|rule| format!("metadata.namespace: {namespace:?} {rule}"))?;
    Ok(CacheId::new(namespace, name, file))
}

fn string<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    match fields.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(Value::String(_)) => Err(format!("{name}: must not be empty")),
        None | Some(Value::Null) => Err(format!("{name}: is missing")),
        Some(other) => Err(format!("{name}: must be a string, not {}", type_of(other))),
    }
}

/// The type of a value, for errors.
fn type_of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value} (quote it)"),
        Value::Number(value) => format!("the number {value} (quote it)"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Appends a path in the notation of Kubernetes: `.cacheSpec[0].imagez`.
fn write_path(path: &Path<'_>, out: &mut String) {
    match path {
        Path::Root => {}
        Path::Seq { parent, index } => {
            write_path(parent, out);
            out.push_str(&format!("[{index}]"));
        }
        Path::Map { parent, key } => {
            write_path(parent, out);
            out.push('.');
            out.push_str(key);
        }
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => write_path(parent, out),
    }
}
