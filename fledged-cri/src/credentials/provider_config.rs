//! The kubelet's `CredentialProviderConfig`: which plugins exist, and for which images they are run.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fledged_core::error::plain_text;
use fledged_core::model::GoDuration;
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::image_pattern::Pattern;

/// Why a configuration of credential providers cannot be used. Its text contains no value of an environment
/// variable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialProviderError {
    /// The configuration cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The directory has no configuration.
    #[error("the directory {} contains no file that ends in .json, .yaml or .yml", path.display())]
    NoFiles {
        /// The directory.
        path: PathBuf,
    },
    /// The file is neither YAML nor JSON.
    #[error("{} is not valid YAML or JSON (line {line}, column {column})", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line of the problem, from 1.
        line: u64,
        /// Column of the problem, from 1.
        column: u64,
    },
    /// Fields are missing or invalid.
    #[error("{} is invalid: {}", path.display(), problems.join("; "))]
    Invalid {
        /// The file, or the directory if its files contradict each other.
        path: PathBuf,
        /// Each field with its value and what is wrong with it.
        problems: Vec<String>,
    },
    /// The directory of the plugins, or one of the plugins, cannot be used.
    #[error("{} {problem}", path.display())]
    Plugin {
        /// The directory or the plugin.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The version of request and response that a plugin speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PluginApi {
    V1,
    V1Beta1,
    V1Alpha1,
}

impl PluginApi {
    pub(super) const ALL: [Self; 3] = [Self::V1, Self::V1Beta1, Self::V1Alpha1];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "credentialprovider.kubelet.k8s.io/v1",
            Self::V1Beta1 => "credentialprovider.kubelet.k8s.io/v1beta1",
            Self::V1Alpha1 => "credentialprovider.kubelet.k8s.io/v1alpha1",
        }
    }
}

/// What credentials that were obtained with a ServiceAccount's token depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenCache {
    ServiceAccount,
    Token,
}

/// The ServiceAccount data that a plugin gets (KEP-4412).
#[derive(Debug, Clone)]
pub(super) struct TokenAttributes {
    pub(super) audience: String,
    pub(super) cache: TokenCache,
    pub(super) require_account: bool,
    pub(super) required_annotations: Vec<String>,
    pub(super) optional_annotations: Vec<String>,
}

/// One plugin.
#[derive(Debug, Clone)]
pub(super) struct Provider {
    pub(super) name: String,
    pub(super) match_images: Vec<Pattern>,
    pub(super) default_cache_duration: Duration,
    pub(super) api: PluginApi,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, SecretString)>,
    pub(super) token: Option<TokenAttributes>,
}

/// Reads a file, or the `.json`, `.yaml` and `.yml` files of a directory in the order of their names, as the
/// kubelet does.
pub(super) fn read(path: &Path) -> Result<Vec<Provider>, CredentialProviderError> {
    let mut providers: Vec<Provider> = Vec::new();
    for file in files(path)? {
        let content = std::fs::read(&file).map_err(read_error(&file))?;
        providers.extend(parse(&file, &content)?);
    }
    let mut names = BTreeSet::new();
    let duplicates = providers.iter().filter(|of| !names.insert(&of.name));
    let problems: Vec<String> = duplicates
        .map(|of| format!("providers: name {}: must be unique", shown(&of.name)))
        .collect();
    if problems.is_empty() {
        return Ok(providers);
    }
    Err(CredentialProviderError::Invalid {
        path: path.to_owned(),
        problems,
    })
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> CredentialProviderError + use<> {
    let path = path.to_owned();
    |source| CredentialProviderError::Read { path, source }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, CredentialProviderError> {
    let is_directory = std::fs::metadata(path).map_err(read_error(path))?.is_dir();
    if !is_directory {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(read_error(path))? {
        let entry = entry.map_err(read_error(path))?;
        let kind = entry.file_type().map_err(read_error(path))?;
        let file = entry.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        if !kind.is_dir() && matches!(extension, Some("json" | "yaml" | "yml")) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        let path = path.to_owned();
        return Err(CredentialProviderError::NoFiles { path });
    }
    Ok(files)
}

pub(super) fn parse(path: &Path, content: &[u8]) -> Result<Vec<Provider>, CredentialProviderError> {
    // Without the parsers' messages, which repeat the content: it may have secrets in environment variables.
    let syntax = |line, column| CredentialProviderError::Syntax {
        path: path.to_owned(),
        line,
        column,
    };
    let is_json = content.trim_ascii_start().starts_with(b"{");
    let value: Value = match serde_json::from_slice(content) {
        Ok(value) => value,
        // A flow mapping of YAML starts like JSON.
        Err(json) => serde_saphyr::from_slice(content).map_err(|yaml| match yaml.location() {
            Some(at) if !is_json => syntax(at.line(), at.column()),
            _ if is_json => syntax(json.line() as u64, json.column() as u64),
            _ => syntax(1, 1),
        })?,
    };
    let mut problems = Vec::new();
    let providers = config(&value, &mut problems);
    if problems.is_empty() {
        return Ok(providers);
    }
    Err(CredentialProviderError::Invalid {
        path: path.to_owned(),
        problems,
    })
}

/// A value of the configuration for an error.
fn shown(text: &str) -> String {
    format!("{:?}", plain_text(text, 120))
}

/// The fields of one object, and the problems of all objects.
struct Fields<'a, 'p> {
    path: String,
    fields: &'a Map<String, Value>,
    read: BTreeSet<&'static str>,
    problems: &'p mut Vec<String>,
}

impl<'a, 'p> Fields<'a, 'p> {
    fn of(path: String, value: &'a Value, problems: &'p mut Vec<String>) -> Option<Self> {
        let Value::Object(fields) = value else {
            let what = if path.is_empty() { "it" } else { &path };
            problems.push(format!("{what}: must be an object"));
            return None;
        };
        Some(Self {
            path,
            fields,
            read: BTreeSet::new(),
            problems,
        })
    }

    fn path(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    fn problem(&mut self, name: &str, problem: impl fmt::Display) {
        let path = self.path(name);
        self.problems.push(format!("{path}: {problem}"));
    }

    fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.read.insert(name);
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// A string; `None` if it is missing or has another type, which is a problem.
    fn string(&mut self, name: &'static str) -> Option<&'a str> {
        match self.get(name)? {
            Value::String(text) => Some(text),
            _ => {
                self.problem(name, "must be a string");
                None
            }
        }
    }

    /// A string that must be there.
    fn required(&mut self, name: &'static str) -> Option<&'a str> {
        let before = self.problems.len();
        let text = self.string(name).filter(|text| !text.is_empty());
        if text.is_none() && self.problems.len() == before {
            self.problem(name, "is required");
        }
        text
    }

    fn list(&mut self, name: &'static str) -> &'a [Value] {
        match self.get(name) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.problem(name, "must be a list");
                &[]
            }
        }
    }

    fn strings(&mut self, name: &'static str) -> Vec<String> {
        let mut strings = Vec::new();
        for (at, item) in self.list(name).iter().enumerate() {
            match item {
                Value::String(text) => strings.push(text.clone()),
                _ => self.problem(&format!("{name}[{at}]"), "must be a string"),
            }
        }
        strings
    }

    /// Warns about fields that were not read. The kubelet refuses them; a newer kubelet may know them.
    fn warn_unknown(&self) {
        for name in self.fields.keys() {
            if !self.read.contains(name.as_str()) {
                tracing::warn!(
                    field = self.path(&plain_text(name, 120)),
                    "unknown field in the credential provider configuration ignored"
                );
            }
        }
    }
}

fn config(value: &Value, problems: &mut Vec<String>) -> Vec<Provider> {
    const VERSIONS: [&str; 3] = [
        "kubelet.config.k8s.io/v1",
        "kubelet.config.k8s.io/v1beta1",
        "kubelet.config.k8s.io/v1alpha1",
    ];
    let Some(mut fields) = Fields::of(String::new(), value, problems) else {
        return Vec::new();
    };
    match fields.required("apiVersion") {
        Some(version) if !VERSIONS.contains(&version) => fields.problem(
            "apiVersion",
            format!("{}: must be one of {}", shown(version), VERSIONS.join(", ")),
        ),
        _ => {}
    }
    match fields.required("kind") {
        Some(kind) if kind != "CredentialProviderConfig" => fields.problem(
            "kind",
            format!("{}: must be CredentialProviderConfig", shown(kind)),
        ),
        _ => {}
    }
    let before = fields.problems.len();
    let list = fields.list("providers");
    if list.is_empty() && fields.problems.len() == before {
        fields.problem("providers", "at least one is required");
    }
    fields.warn_unknown();
    let providers = list.iter().enumerate();
    providers
        .filter_map(|(at, value)| provider(format!("providers[{at}]"), value, problems))
        .collect()
}

/// One provider, or `None` if it has a problem.
fn provider(path: String, value: &Value, problems: &mut Vec<String>) -> Option<Provider> {
    let before = problems.len();
    let mut fields = Fields::of(path.clone(), value, problems)?;
    let name = fields.required("name").unwrap_or_default().to_owned();
    let wrong = if name.contains('/') {
        Some("must not contain \"/\": it is a file name in the directory of the plugins")
    } else if name.contains(' ') {
        Some("must not contain spaces")
    } else if matches!(name.as_str(), "." | "..") || name.contains('\0') {
        Some("must be a file name")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        fields.problem("name", format!("{}: {wrong}", shown(&name)));
    }
    let api = fields.required("apiVersion").and_then(|version| {
        let known = PluginApi::ALL
            .into_iter()
            .find(|api| api.as_str() == version);
        if known.is_none() {
            let all = PluginApi::ALL.map(PluginApi::as_str).join(", ");
            let text = format!("{}: must be one of {all}", shown(version));
            fields.problem("apiVersion", text);
        }
        known
    });
    let match_images = match_images(&mut fields);
    let default_cache_duration = fields.required("defaultCacheDuration").and_then(|text| {
        let duration = text.parse::<GoDuration>();
        if let Err(error) = &duration {
            let text = format!(
                "{}: must be a duration that is not negative, for example 10m: {error}",
                shown(text)
            );
            fields.problem("defaultCacheDuration", text);
        }
        duration.ok().map(|duration| duration.0)
    });
    let args = fields.strings("args");
    let env = fields.list("env");
    let token = fields.get("tokenAttributes");
    if token.is_some() && api.is_some_and(|api| api != PluginApi::V1) {
        let text = format!("requires apiVersion {}", PluginApi::V1.as_str());
        fields.problem("tokenAttributes", text);
    }
    fields.warn_unknown();
    let env = env
        .iter()
        .enumerate()
        .filter_map(|(at, value)| variable(format!("{path}.env[{at}]"), value, problems))
        .collect();
    let token = token
        .and_then(|value| token_attributes(format!("{path}.tokenAttributes"), value, problems));
    (problems.len() == before).then_some(Provider {
        name,
        match_images,
        default_cache_duration: default_cache_duration?,
        api: api?,
        args,
        env,
        token,
    })
}

fn match_images(fields: &mut Fields<'_, '_>) -> Vec<Pattern> {
    let before = fields.problems.len();
    let texts = fields.strings("matchImages");
    if texts.is_empty() && fields.problems.len() == before {
        fields.problem("matchImages", "at least one is required");
    }
    let mut patterns = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        match Pattern::parse_match_image(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(problem) => fields.problem(
                &format!("matchImages[{at}]"),
                format!("{}: {problem}", shown(text)),
            ),
        }
    }
    patterns
}

fn variable(
    path: String,
    value: &Value,
    problems: &mut Vec<String>,
) -> Option<(String, SecretString)> {
    let mut fields = Fields::of(path, value, problems)?;
    let name = fields.required("name")?.to_owned();
    if name.contains(['=', '\0']) {
        fields.problem("name", format!("{}: must not contain \"=\"", shown(&name)));
    }
    let value = fields.string("value").unwrap_or_default();
    if value.contains('\0') {
        fields.problem("value", "must not contain a zero byte");
    }
    fields.warn_unknown();
    Some((name, SecretString::from(value)))
}

fn token_attributes(
    path: String,
    value: &Value,
    problems: &mut Vec<String>,
) -> Option<TokenAttributes> {
    let before = problems.len();
    let mut fields = Fields::of(path, value, problems)?;
    let audience = fields.required("serviceAccountTokenAudience");
    let cache = fields.required("cacheType").and_then(|text| match text {
        "ServiceAccount" => Some(TokenCache::ServiceAccount),
        "Token" => Some(TokenCache::Token),
        _ => {
            let text = format!("{}: must be ServiceAccount or Token", shown(text));
            fields.problem("cacheType", text);
            None
        }
    });
    let require_account = match fields.get("requireServiceAccount") {
        Some(Value::Bool(required)) => Some(*required),
        other => {
            let problem = match other {
                None => "is required",
                Some(_) => "must be true or false",
            };
            fields.problem("requireServiceAccount", problem);
            None
        }
    };
    let required_annotations = annotations(&mut fields, "requiredServiceAccountAnnotationKeys");
    let optional_annotations = annotations(&mut fields, "optionalServiceAccountAnnotationKeys");
    if require_account == Some(false) && !required_annotations.is_empty() {
        fields.problem(
            "requiredServiceAccountAnnotationKeys",
            "must be empty if requireServiceAccount is false",
        );
    }
    for key in required_annotations
        .iter()
        .filter(|key| optional_annotations.contains(key))
    {
        let text = format!(
            "{}: must not be in requiredServiceAccountAnnotationKeys as well",
            shown(key)
        );
        fields.problem("optionalServiceAccountAnnotationKeys", text);
    }
    fields.warn_unknown();
    (problems.len() == before).then_some(TokenAttributes {
        audience: audience?.to_owned(),
        cache: cache?,
        require_account: require_account?,
        required_annotations,
        optional_annotations,
    })
}

fn annotations(fields: &mut Fields<'_, '_>, name: &'static str) -> Vec<String> {
    let keys = fields.strings(name);
    let mut seen = BTreeSet::new();
    for (at, key) in keys.iter().enumerate() {
        let problem = if !is_qualified_name(key) {
            "must be an annotation key"
        } else if !seen.insert(key) {
            "must be unique"
        } else {
            continue;
        };
        fields.problem(
            &format!("{name}[{at}]"),
            format!("{}: {problem}", shown(key)),
        );
    }
    keys
}

/// Whether the text is a key of annotations: a name of up to 63 characters, after an optional DNS subdomain and a
/// slash.
fn is_qualified_name(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key.as_str()),
    };
    let edges = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let all = |text: &str, others: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || others.contains(c))
    };
    let is_subdomain = |text: &str| {
        text.len() <= 253 && text.split('.').all(|label| edges(label) && all(label, "-"))
    };
    name.len() <= 63 && edges(name) && all(name, "-_.") && prefix.is_none_or(is_subdomain)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;

    fn mk_provider(name: &str) -> Value {
        json!({
            "name": name,
            "matchImages": ["*.registry.example"],
            "defaultCacheDuration": "10m",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        })
    }

    fn mk_config(providers: &[Value]) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1",
            "kind": "CredentialProviderConfig",
            "providers": providers,
        })
    }

    fn parse_text(text: &str) -> Result<Vec<Provider>, CredentialProviderError> {
        parse(Path::new("config.yaml"), text.as_bytes())
    }

    /// The problems of a configuration with this provider, changed.
    fn problems(change: impl FnOnce(&mut Value)) -> String {
        let mut provider = mk_provider("ecr");
        change(&mut provider);
        match parse_text(&mk_config(&[provider]).to_string()) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn yaml_and_json_of_every_version_are_read() {
        let yaml = "
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: ecr-credential-provider
  matchImages:
  - '*.dkr.ecr.*.amazonaws.com'
  - public.ecr.aws
  defaultCacheDuration: 12h
  apiVersion: credentialprovider.kubelet.k8s.io/v1beta1
  args: [get-credentials, --debug]
  env:
  - name: AWS_PROFILE
    value: example
  - name: EMPTY
- name: none
  matchImages: [registry.example]
  defaultCacheDuration: 0s
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  tokenAttributes:
    serviceAccountTokenAudience: registry.example
    cacheType: ServiceAccount
    requireServiceAccount: true
    requiredServiceAccountAnnotationKeys: [registry.example/Role]
    optionalServiceAccountAnnotationKeys: [domain]
";
        let providers = parse_text(yaml).unwrap();
        let [ecr, none] = providers.as_slice() else {
            panic!("{providers:?}");
        };
        assert_eq!(ecr.name, "ecr-credential-provider");
        assert_eq!(ecr.default_cache_duration, Duration::from_secs(12 * 3600));
        assert_eq!(ecr.api, PluginApi::V1Beta1);
        assert_eq!(ecr.args, ["get-credentials", "--debug"]);
        let env = ecr.env.iter();
        let env: Vec<_> = env
            .map(|(name, value)| (name.as_str(), value.expose_secret()))
            .collect();
        assert_eq!(env, [("AWS_PROFILE", "example"), ("EMPTY", "")]);
        assert_eq!(none.default_cache_duration, Duration::ZERO);
        let token = none.token.as_ref().unwrap();
        assert_eq!(token.cache, TokenCache::ServiceAccount);
        assert!(token.require_account);
        assert_eq!(token.required_annotations, ["registry.example/Role"]);
        for version in ["v1", "v1beta1", "v1alpha1"] {
            let mut config = mk_config(&[mk_provider("a")]);
            config["apiVersion"] = json!(format!("kubelet.config.k8s.io/{version}"));
            let tabs = serde_json::to_string_pretty(&config)
                .unwrap()
                .replace("  ", "\t");
            assert_eq!(parse_text(&tabs).unwrap().len(), 1, "{version}");
        }
    }

    #[test]
    fn a_problem_names_the_field_and_the_value() {
        for (field, value, expected) in [
            ("name", json!(null), "providers[0].name: is required"),
            (
                "name",
                json!("a/b"),
                "providers[0].name: \"a/b\": must not contain \"/\"",
            ),
            (
                "name",
                json!("a b"),
                "providers[0].name: \"a b\": must not contain spaces",
            ),
            (
                "name",
                json!("."),
                "providers[0].name: \".\": must be a file name",
            ),
            (
                "name",
                json!(".."),
                "providers[0].name: \"..\": must be a file name",
            ),
            ("name", json!(1), "providers[0].name: must be a string"),
            (
                "apiVersion",
                json!(""),
                "providers[0].apiVersion: is required",
            ),
            (
                "apiVersion",
                json!("v1"),
                "providers[0].apiVersion: \"v1\": must be one of credentialprovider",
            ),
            (
                "matchImages",
                json!([]),
                "providers[0].matchImages: at least one is required",
            ),
            (
                "matchImages",
                json!("*.example"),
                "providers[0].matchImages: must be a list",
            ),
            (
                "matchImages",
                json!(["ok", "a b"]),
                "providers[0].matchImages[1]: \"a b\": ",
            ),
            (
                "matchImages",
                json!(["r.example:x"]),
                "\"r.example:x\": its port is not a number",
            ),
            (
                "defaultCacheDuration",
                json!(null),
                "providers[0].defaultCacheDuration: is required",
            ),
            (
                "defaultCacheDuration",
                json!("-1s"),
                "providers[0].defaultCacheDuration: \"-1s\": ",
            ),
            (
                "defaultCacheDuration",
                json!("10"),
                "providers[0].defaultCacheDuration: \"10\": ",
            ),
            (
                "defaultCacheDuration",
                json!(10),
                "providers[0].defaultCacheDuration: must be a string",
            ),
            ("args", json!([1]), "providers[0].args[0]: must be a string"),
            (
                "env",
                json!([{"value": "s3cret"}]),
                "providers[0].env[0].name: is required",
            ),
            (
                "env",
                json!([{"name": "A", "value": ["s3cret"]}]),
                "providers[0].env[0].value: must be a string",
            ),
            (
                "tokenAttributes",
                json!({}),
                "tokenAttributes.serviceAccountTokenAudience: is required",
            ),
        ] {
            let found = problems(|provider| provider[field] = value.clone());
            assert!(found.contains(expected), "{field} {value}: {found}");
            assert!(found.starts_with("config.yaml is invalid: "), "{found}");
            assert!(!found.contains("s3cret"), "{found}");
        }
    }

    #[test]
    fn token_attributes_are_checked_as_in_the_kubelet() {
        let attributes = |changes: Value| {
            let mut token = json!({
                "serviceAccountTokenAudience": "a", "cacheType": "Token", "requireServiceAccount": true,
            });
            for (name, value) in changes.as_object().unwrap() {
                token[name] = value.clone();
            }
            move |provider: &mut Value| provider["tokenAttributes"] = token
        };
        assert_eq!(problems(attributes(json!({}))), "");
        let (required, optional) = (
            "requiredServiceAccountAnnotationKeys",
            "optionalServiceAccountAnnotationKeys",
        );
        for (changes, expected) in [
            (
                json!({"serviceAccountTokenAudience": ""}),
                "serviceAccountTokenAudience: is required",
            ),
            (json!({"cacheType": null}), "cacheType: is required"),
            (
                json!({"cacheType": "Pod"}),
                "cacheType: \"Pod\": must be ServiceAccount or Token",
            ),
            (
                json!({"requireServiceAccount": null}),
                "requireServiceAccount: is required",
            ),
            (
                json!({"requireServiceAccount": "yes"}),
                "requireServiceAccount: must be true or false",
            ),
            (
                json!({"requireServiceAccount": false, required: ["a"]}),
                "must be empty if requireServiceAccount is false",
            ),
            (
                json!({required: ["a", "a"]}),
                "Keys[1]: \"a\": must be unique",
            ),
            (
                json!({required: ["a b"]}),
                "Keys[0]: \"a b\": must be an annotation key",
            ),
            (
                json!({optional: ["-.example/a"]}),
                "must be an annotation key",
            ),
            (
                json!({required: ["a"], optional: ["a"]}),
                "\"a\": must not be in required",
            ),
        ] {
            let found = problems(attributes(changes));
            assert!(found.contains(expected), "{found}");
        }
        let old = problems(|provider| {
            attributes(json!({}))(provider);
            provider["apiVersion"] = json!("credentialprovider.kubelet.k8s.io/v1beta1");
        });
        assert!(
            old.contains("tokenAttributes: requires apiVersion"),
            "{old}"
        );
    }

    #[test]
    fn every_problem_of_a_file_is_reported() {
        let error = parse_text("kind: Config\nproviders: []\nother: 1\n").unwrap_err();
        let text = error.to_string();
        for part in [
            "apiVersion: is required",
            "kind: \"Config\"",
            "providers: at least one",
        ] {
            assert!(text.contains(part), "{text}");
        }
        for text in ["", "[]", "text"] {
            let error = parse_text(text).unwrap_err().to_string();
            assert!(error.contains("it: must be an object"), "{error}");
        }
        let syntax = parse_text("kind: x\nenv: {value: s3cret")
            .unwrap_err()
            .to_string();
        assert!(
            syntax.contains("not valid YAML or JSON (line ") && !syntax.contains("s3cret"),
            "{syntax}"
        );
        let duplicate = parse_text("kind: s3cret\nkind: s3cret\n")
            .unwrap_err()
            .to_string();
        assert!(
            duplicate.contains("line 2") && !duplicate.contains("s3cret"),
            "{duplicate}"
        );
        let json = parse_text("{\"kind\": \"s3cret\",\n\"a\" 1}")
            .unwrap_err()
            .to_string();
        assert!(
            json.contains("line 2") && !json.contains("s3cret"),
            "{json}"
        );
    }

    #[test]
    fn the_files_of_a_directory_are_merged_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("contains no file that ends in"), "{error}");
        let put = |file: &str, name: &str| {
            let text = mk_config(&[mk_provider(name)]).to_string();
            fs::write(folder.path().join(file), text).unwrap();
        };
        put("20-b.yaml", "b");
        put("10-c.json", "c");
        put("30-a.yml", "a");
        put("40-d.txt", "d");
        fs::create_dir(folder.path().join("50.yaml")).unwrap();
        let names = |providers: Vec<Provider>| -> Vec<String> {
            providers
                .into_iter()
                .map(|provider| provider.name)
                .collect()
        };
        assert_eq!(names(read(folder.path()).unwrap()), ["c", "b", "a"]);
        put("60.yaml", "b");
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("name \"b\": must be unique"), "{error}");
        let error = read(&folder.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("cannot read "), "{error}");
    }
}
