//! Credentials from docker configurations: a `config.json` file or the content of a Secret.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use fledged_core::error::{Failure, Reason, plain_text};
use fledged_core::port::{Credentials, CredentialsRequest, FoundCredentials, RegistryAuth};
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::docker_helper::{HelperNames, Helpers};
use super::keyring::Keyring;

/// Why a docker configuration cannot be used. Its text contains no value of the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DockerConfigError {
    /// The file cannot be read.
    #[error("cannot read the registry configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The content is not JSON.
    #[error("the registry configuration is not valid JSON (line {line}, column {column})")]
    NotJson {
        /// Line of the problem, from 1.
        line: usize,
        /// Column of the problem, from 1.
        column: usize,
    },
    /// A part of the configuration has the wrong type.
    #[error("the registry configuration is malformed: {problem}")]
    Malformed {
        /// The part, and the type it must have.
        problem: &'static str,
    },
    /// The entry of one registry is malformed.
    #[error("the registry configuration's entry for \"{registry}\" is malformed: {problem}")]
    Entry {
        /// The key of the entry, as written.
        registry: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The name of a credential helper is not the end of a program's name.
    #[error(
        "the registry configuration names the credential helper {name:?}: it must have no slashes and no spaces"
    )]
    Helper {
        /// The name.
        name: String,
    },
}

impl From<DockerConfigError> for Failure {
    fn from(error: DockerConfigError) -> Self {
        Self::new(Reason::CredentialsUnavailable, error.to_string())
    }
}

/// Credentials from a docker `config.json`, the content of a `kubernetes.io/dockerconfigjson`
/// Secret, or an old `.dockercfg`.
///
/// Keys match as in the kubelet: host with globs (`*.example.com`), port, path prefix. All matching
/// entries are used, the most specific first. A file is read again for every pull, so that credentials
/// can be rotated while the process runs.
///
/// Credential helpers (`credHelpers`, `credsStore`) are programs that a configuration names. They are only run if
/// it is opened [with helpers](Self::open_with_helpers); otherwise, a warning is logged if it names any.
///
/// ```
/// use fledged_cri::DockerConfig;
///
/// let config = br#"{"auths":{"registry.example":{"auth":"dXNlcjpwYXNz"}}}"#;
/// let credentials = DockerConfig::from_json(config)?;
/// # Ok::<(), fledged_cri::DockerConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct DockerConfig {
    source: Source,
    /// Runs credential helpers, if that is allowed.
    helpers: Option<Helpers>,
}

#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Content(Arc<Config>),
}

impl DockerConfig {
    /// Credentials from a file, which is read once to report errors early.
    ///
    /// # Errors
    ///
    /// [`DockerConfigError`] if the file cannot be read or is malformed. A malformed entry is no error: a
    /// warning is logged, and the others are used.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DockerConfigError> {
        Self::from_file(path.as_ref(), None)
    }

    /// Credentials from a file of the user who runs this program, and from its credential helpers, the programs
    /// `docker-credential-NAME` in `$PATH`. Those of a helper come first, as in docker.
    ///
    /// # Errors
    ///
    /// As with [`open`](Self::open), and [`DockerConfigError::Helper`] if the name of a helper is invalid. A helper
    /// that fails, or does not finish within the [limit](CredentialsRequest::limit), is the failure of images without
    /// other credentials.
    pub fn open_with_helpers(path: impl AsRef<Path>) -> Result<Self, DockerConfigError> {
        Self::from_file(path.as_ref(), Some(Helpers::default()))
    }

    fn from_file(path: &Path, helpers: Option<Helpers>) -> Result<Self, DockerConfigError> {
        let config = read(path, helpers.is_some())?;
        config.warn(&path.display().to_string(), helpers.is_some());
        Ok(Self {
            source: Source::File(path.to_owned()),
            helpers,
        })
    }

    /// Credentials from the content of a configuration, for example of a Secret's `.dockerconfigjson`.
    ///
    /// # Errors
    ///
    /// [`DockerConfigError`] if the content is malformed. A malformed entry is no error: a warning is
    /// logged, and the others are used.
    pub fn from_json(content: &[u8]) -> Result<Self, DockerConfigError> {
        let config = Config::parse(content)?;
        config.warn("the given content", false);
        Ok(Self {
            source: Source::Content(Arc::new(config)),
            helpers: None,
        })
    }

    /// The configuration as it is now.
    async fn config(&self) -> Result<Arc<Config>, Failure> {
        match &self.source {
            Source::Content(config) => Ok(Arc::clone(config)),
            Source::File(path) => {
                let (path, with_helpers) = (path.clone(), self.helpers.is_some());
                let config = tokio::task::spawn_blocking(move || read(&path, with_helpers)).await;
                let config = config.map_err(|error| unavailable(error.to_string()))?;
                Ok(Arc::new(config?))
            }
        }
    }
}

#[async_trait]
impl Credentials for DockerConfig {
    async fn resolve(&self, request: &CredentialsRequest) -> FoundCredentials {
        let config = match self.config().await {
            Ok(config) => config,
            Err(failure) => return failure.into(),
        };
        let mut found = FoundCredentials::default();
        if let Some(helpers) = &self.helpers {
            let asked = helpers.ask(&config.helpers, &request.image, request.limit);
            match asked.await {
                Ok(auth) => found.auths.extend(auth),
                Err(text) => found.extend(unavailable(text).into()),
            }
        }
        let entries = config.keyring.find(&request.image);
        found.auths.extend(entries.auths);
        if let Some(malformed) = entries.malformed.first() {
            let error = DockerConfigError::Entry {
                registry: malformed.key.clone(),
                problem: malformed.problem,
            };
            found.extend(Failure::from(error).into());
        }
        for problem in found.problems.iter().filter(|_| !found.auths.is_empty()) {
            tracing::warn!(image = %request.image, problem = %problem.failure, "registry credentials skipped");
        }
        found
    }
}

fn unavailable(text: String) -> Failure {
    Failure::new(Reason::CredentialsUnavailable, text)
}

/// Reads a file; if helpers are run, their names must be valid.
fn read(path: &Path, with_helpers: bool) -> Result<Config, DockerConfigError> {
    let content = std::fs::read(path).map_err(|source| DockerConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let config = Config::parse(&content)?;
    match config.helpers.invalid() {
        Some(name) if with_helpers => Err(DockerConfigError::Helper {
            name: plain_text(name, 100),
        }),
        _ => Ok(config),
    }
}

/// A parsed configuration.
#[derive(Debug)]
struct Config {
    keyring: Keyring,
    helpers: HelperNames,
}

impl Config {
    fn parse(content: &[u8]) -> Result<Self, DockerConfigError> {
        let malformed = |problem| DockerConfigError::Malformed { problem };
        let fields = object(content)?;
        let keyring = keyring(auths(&fields).ok_or(malformed("\"auths\" must be an object"))?);
        let helpers = HelperNames::parse(&fields).map_err(malformed)?;
        Ok(Self { keyring, helpers })
    }

    /// Warns about malformed entries, and about credential helpers that are not run.
    fn warn(&self, origin: &str, with_helpers: bool) {
        for malformed in self.keyring.malformed() {
            tracing::warn!(
                config = origin,
                registry = malformed.key,
                problem = malformed.problem,
                "malformed registry credentials are skipped"
            );
        }
        let helpers = self.helpers.all();
        if !helpers.is_empty() && !with_helpers {
            tracing::warn!(
                config = origin,
                helpers = helpers.join(", "),
                "credential helpers are not run; only the credentials written in \"auths\" are used"
            );
        }
    }
}

/// The fields of a configuration.
pub(super) fn object(content: &[u8]) -> Result<Map<String, Value>, DockerConfigError> {
    // Without the parser's message, which repeats the invalid value.
    match serde_json::from_slice(content) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(DockerConfigError::Malformed {
            problem: "it must be an object",
        }),
        Err(error) => Err(DockerConfigError::NotJson {
            line: error.line(),
            column: error.column(),
        }),
    }
}

/// The keyring with these entries.
pub(super) fn keyring(entries: &Map<String, Value>) -> Keyring {
    let mut keyring = Keyring::default();
    for (key, value) in entries {
        keyring.add(key, parse_entry(value));
    }
    keyring
}

/// The entries by registry: under `auths`, or at the top level of an old `.dockercfg`.
fn auths(fields: &Map<String, Value>) -> Option<&Map<String, Value>> {
    match fields.get("auths") {
        Some(Value::Object(auths)) => Some(auths),
        Some(Value::Null) => Some(empty()),
        Some(_) => None,
        None => {
            let is_entry = |value: &Value| {
                ["auth", "username", "identitytoken", "registrytoken"]
                    .iter()
                    .any(|name| value.get(name).is_some())
            };
            let old = !fields.is_empty() && fields.values().all(is_entry);
            Some(if old { fields } else { empty() })
        }
    }
}

fn empty() -> &'static Map<String, Value> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    &EMPTY
}

/// Base64 as Go's decoder reads it: padding is optional, since both forms are in use, and unused bits
/// are ignored.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Reads the entry of one registry, or `None` if it is empty, as docker leaves it when a credential
/// store has the credentials.
///
/// Tokens precede a user name, and `auth` precedes `username` and `password`, as in docker. Errors name
/// the problem only, because a parser's message may repeat the value, which is a secret.
fn parse_entry(entry: &Value) -> Result<Option<RegistryAuth>, &'static str> {
    let Value::Object(fields) = entry else {
        return Err("must be an object");
    };
    let text = |name: &str, problem| match fields.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(problem),
    };
    let identity = text("identitytoken", "\"identitytoken\" must be a string")?.trim();
    let registry = text("registrytoken", "\"registrytoken\" must be a string")?.trim();
    let auth = text("auth", "\"auth\" must be a string")?.trim();
    let username = text("username", "\"username\" must be a string")?;
    let password = text("password", "\"password\" must be a string")?;
    if !identity.is_empty() {
        return Ok(Some(RegistryAuth::IdentityToken(SecretString::from(
            identity,
        ))));
    }
    if !registry.is_empty() {
        return Ok(Some(RegistryAuth::RegistryToken(SecretString::from(
            registry,
        ))));
    }
    if !auth.is_empty() {
        return basic(auth).map(Some);
    }
    // Either may be empty, as in the kubelet: some registries ignore one of the two.
    if username.is_empty() && password.is_empty() {
        return Ok(None);
    }
    Ok(Some(RegistryAuth::Basic {
        username: username.to_owned(),
        password: SecretString::from(password),
    }))
}

/// Decodes `auth`, base64 of `username:password`. It may be wrapped: `base64` breaks long lines, and
/// Go's decoder skips the breaks.
fn basic(auth: &str) -> Result<RegistryAuth, &'static str> {
    let bytes = BASE64
        .decode(auth.replace(['\r', '\n'], ""))
        .map_err(|_| "\"auth\" is not valid base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "\"auth\" does not decode to text")?;
    let (username, password) = text
        .split_once(':')
        .ok_or("\"auth\" does not decode to username:password")?;
    if username.is_empty() && password.is_empty() {
        return Err("\"auth\" decodes to no user name and no password");
    }
    Ok(RegistryAuth::Basic {
        username: username.to_owned(),
        // Old docker versions padded with zero bytes before encoding.
        password: SecretString::from(password.trim_matches('\0')),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;

    fn request(image: &str) -> CredentialsRequest {
        CredentialsRequest::new(image.parse().unwrap())
    }

    async fn user(config: &DockerConfig, image: &str) -> Option<String> {
        let auths = config.resolve(&request(image)).await.usable().unwrap();
        auths.into_iter().next().map(|auth| match auth {
            RegistryAuth::Basic { username, .. } => username,
            other => panic!("{other:?}"),
        })
    }

    #[tokio::test]
    async fn reads_current_and_old_files() {
        let current = br#"{"auths":{"r.example":{"auth":"dXNlcjpwYXNz"}},"psFormat":"x"}"#;
        let old = br#"{"r.example":{"auth":"dXNlcjpwYXNz","email":"a@b"}}"#;
        for content in [current.as_slice(), old] {
            let config = DockerConfig::from_json(content).unwrap();
            assert_eq!(user(&config, "r.example/a").await.as_deref(), Some("user"));
            assert_eq!(user(&config, "nginx").await, None);
        }
        for none in [
            "{}",
            r#"{"auths":{}}"#,
            r#"{"auths":null}"#,
            r#"{"psFormat":"x"}"#,
        ] {
            let config = DockerConfig::from_json(none.as_bytes()).unwrap();
            assert_eq!(user(&config, "nginx").await, None, "{none}");
        }
        // As docker writes it where a store has the credentials.
        let store = br#"{"auths":{"https://index.docker.io/v1/":{}},"credsStore":"desktop"}"#;
        let config = DockerConfig::from_json(store).unwrap();
        assert_eq!(user(&config, "nginx").await, None);
    }

    #[tokio::test]
    async fn a_file_is_read_for_every_pull() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |user: &str| {
            format!(r#"{{"auths":{{"r.example":{{"username":"{user}","password":"p"}}}}}}"#)
        };
        fs::write(file.path(), with("old")).unwrap();
        let config = DockerConfig::open(file.path()).unwrap();
        assert_eq!(user(&config, "r.example/a").await.as_deref(), Some("old"));
        fs::write(file.path(), with("new")).unwrap();
        assert_eq!(user(&config, "r.example/a").await.as_deref(), Some("new"));
        fs::write(file.path(), "{").unwrap();
        let failure = config
            .resolve(&request("r.example/a"))
            .await
            .usable()
            .unwrap_err();
        assert_eq!(failure.reason, Reason::CredentialsUnavailable);
        fs::remove_file(file.path()).unwrap();
        let failure = config
            .resolve(&request("r.example/a"))
            .await
            .usable()
            .unwrap_err();
        assert_eq!(failure.reason, Reason::CredentialsUnavailable);
    }

    #[tokio::test]
    async fn a_malformed_entry_fails_only_its_own_images() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "{}").unwrap();
        let config = DockerConfig::open(file.path()).unwrap();
        fs::write(
            file.path(),
            r#"{"auths":{"bad.example":{"auth":"s3cret!"},"good.example":{"auth":"dXNlcjpwYXNz"}}}"#,
        )
        .unwrap();
        assert_eq!(
            user(&config, "good.example/a").await.as_deref(),
            Some("user")
        );
        assert_eq!(user(&config, "nginx").await, None);
        let failure = config
            .resolve(&request("bad.example/a"))
            .await
            .usable()
            .unwrap_err();
        assert_eq!(failure.reason, Reason::CredentialsUnavailable);
        assert!(failure.message.contains("\"bad.example\""), "{failure}");
    }

    #[test]
    fn errors_name_the_place_but_no_secret() {
        for (content, expected) in [
            (r#"{"auths":"s3cret"}"#, "auths"),
            (r#"{"credsStore":["s3cret"]}"#, "credsStore"),
            (r#"{"credHelpers":"s3cret"}"#, "credHelpers"),
            (r#"["s3cret"]"#, "object"),
            (r#"{"auths":{"r.example":{"auth":"s3cret}}}"#, "line 1"),
            ("s3cret", "line 1"),
            ("", "JSON"),
        ] {
            let error = DockerConfig::from_json(content.as_bytes()).unwrap_err();
            let (shown, debug) = (error.to_string(), format!("{error:?}"));
            assert!(shown.contains(expected), "{shown}");
            assert!(
                !shown.contains("s3cret") && !debug.contains("s3cret"),
                "{debug}"
            );
        }
        let config = DockerConfig::from_json(
            br#"{"auths":{"r.example":{"username":"u","password":"s3cret"}}}"#,
        );
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[tokio::test]
    async fn odd_entries_do_not_affect_the_others() {
        let content = br#"{"auths":{
            "bad.example":{"auth":"s3cret!"},
            "list.example":["s3cret"],
            "a b":{"auth":"dXNlcjpwYXNz"},
            "":{},
            "good.example":{"auth":"dXNlcjpwYXNz"}}}"#;
        let config = DockerConfig::from_json(content).unwrap();
        let found = user(&config, "good.example/a").await;
        assert_eq!(found.as_deref(), Some("user"));
        for image in ["bad.example/a", "list.example/a"] {
            let failure = config.resolve(&request(image)).await.usable().unwrap_err();
            assert_eq!(failure.reason, Reason::CredentialsUnavailable);
            assert!(!failure.message.contains("s3cret"), "{failure}");
        }
    }

    #[test]
    fn helpers_with_a_path_are_refused_where_they_are_run() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"credsStore":"../evil"}"#).unwrap();
        let error = DockerConfig::open_with_helpers(file.path()).unwrap_err();
        assert!(error.to_string().contains("\"../evil\""), "{error}");
        assert!(DockerConfig::open(file.path()).is_ok());
    }

    #[tokio::test]
    async fn entries_are_used_if_the_helper_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content = r#"{"credsStore":"fledged-test-missing","auths":{"r.example":{"auth":"dXNlcjpwYXNz"}}}"#;
        fs::write(file.path(), content).unwrap();
        let config = DockerConfig::open_with_helpers(file.path()).unwrap();
        assert_eq!(user(&config, "r.example/a").await.as_deref(), Some("user"));
        let failure = config
            .resolve(&request("quay.io/a"))
            .await
            .usable()
            .unwrap_err();
        assert_eq!(failure.reason, Reason::CredentialsUnavailable);
        let message =
            "docker-credential-fledged-test-missing for quay.io: the program is not installed";
        assert!(failure.message.starts_with(message), "{failure}");
        let without = DockerConfig::open(file.path()).unwrap();
        assert_eq!(user(&without, "quay.io/a").await, None);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = DockerConfig::open("/nonexistent/config.json").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/config.json"));
    }

    fn shown(entry: &Value) -> Result<String, &'static str> {
        Ok(match parse_entry(entry)? {
            None => "none".to_owned(),
            Some(RegistryAuth::Basic { username, password }) => {
                format!("basic {username} {}", password.expose_secret())
            }
            Some(RegistryAuth::IdentityToken(token)) => {
                format!("identity {}", token.expose_secret())
            }
            Some(RegistryAuth::RegistryToken(token)) => {
                format!("registry {}", token.expose_secret())
            }
        })
    }

    #[test]
    fn every_form_of_an_entry_is_read() {
        for (entry, expected) in [
            (json!({"auth": "dXNlcjpwYTpzcw=="}), "basic user pa:ss"),
            (json!({"auth": "dXNlcjpwYTpzcw"}), "basic user pa:ss"),
            (json!({"auth": "dXNlcjpwYTpzcw==\n"}), "basic user pa:ss"),
            (json!({"auth": "dXNlcjpwAAA="}), "basic user p"),
            // Wrapped by `base64`, on several systems.
            (json!({"auth": "dXNlcjpw\nYTpzcw==\n"}), "basic user pa:ss"),
            (
                json!({"auth": "dXNlcjpw\r\nYTpzcw==\r\n"}),
                "basic user pa:ss",
            ),
            (json!({"auth": "dXNlcjpwYTpzcx=="}), "basic user pa:ss"),
            (json!({"auth": "dXNlcjo="}), "basic user "),
            (json!({"auth": "OnB3"}), "basic  pw"),
            (json!({"username": "u"}), "basic u "),
            (json!({"username": "u", "password": ""}), "basic u "),
            (json!({"password": "p"}), "basic  p"),
            (json!({"username": "u", "password": " p "}), "basic u  p "),
            (
                json!({"username": "u", "password": "p", "email": "x@y"}),
                "basic u p",
            ),
            (
                json!({"username": "u", "password": "p", "auth": "dXNlcjpwYTpzcw=="}),
                "basic user pa:ss",
            ),
            (
                json!({"auth": "MDAwOg==", "identitytoken": "tok"}),
                "identity tok",
            ),
            (json!({"registrytoken": "tok"}), "registry tok"),
            (json!({}), "none"),
            (json!({"auth": ""}), "none"),
        ] {
            assert_eq!(shown(&entry).as_deref(), Ok(expected), "{entry}");
        }
    }

    #[test]
    fn problems_of_an_entry_name_no_secret() {
        for entry in [
            json!("s3cret"),
            json!({"auth": "s3cret!"}),
            json!({"auth": "s3cret"}),
            json!({"auth": "czNjcmV0"}),
            json!({"auth": "Og=="}),
            json!({"auth": "czNj cmV0OnM="}),
            json!({"auth": {"s3cret": 1}}),
            json!({"password": ["s3cret"]}),
            json!({"username": {"s3cret": 1}}),
            json!({"identitytoken": ["s3cret"]}),
        ] {
            let problem = shown(&entry).unwrap_err();
            assert!(!problem.contains("s3cret"), "{problem}");
        }
    }
}
