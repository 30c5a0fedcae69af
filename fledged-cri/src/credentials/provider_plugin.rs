//! A credential-provider plugin: `CredentialProviderRequest` on its stdin, `CredentialProviderResponse` on its stdout
//! (`credentialprovider.kubelet.k8s.io`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fledged_core::error::plain_text;
use fledged_core::model::GoDuration;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::process::Command;

use super::credential_process::{ProcessError, run};
use super::provider_config::{CredentialProviderError, PluginApi, Provider};

/// Longest part of a plugin's stderr that an error repeats, in characters.
const MESSAGE_MAX: usize = 400;

/// The ServiceAccount on whose behalf a plugin is run.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) token: SecretString,
    pub(super) annotations: BTreeMap<String, String>,
}

/// For which images a response is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheScope {
    Image,
    Registry,
    Global,
}

/// User name and password for the images that match a pattern.
#[derive(Debug, Clone)]
pub(super) struct PluginAuth {
    pub(super) pattern: String,
    pub(super) username: String,
    pub(super) password: SecretString,
}

/// What a plugin returned.
#[derive(Debug, Clone)]
pub(super) struct Response {
    pub(super) scope: CacheScope,
    /// How long it may be cached; `None` for the default of the configuration.
    pub(super) duration: Option<Duration>,
    pub(super) auths: Vec<PluginAuth>,
}

/// The executable of a provider.
#[derive(Debug)]
pub(super) struct Plugin {
    path: PathBuf,
    api: PluginApi,
    args: Vec<String>,
    env: Vec<(String, SecretString)>,
}

impl Plugin {
    /// The plugin of that provider in that directory.
    ///
    /// # Errors
    ///
    /// [`CredentialProviderError::Plugin`] if it is missing or not executable.
    pub(super) fn open(
        folder: &Path,
        provider: &Provider,
    ) -> Result<Self, CredentialProviderError> {
        let path = folder.join(&provider.name);
        let fail = |problem: String| CredentialProviderError::Plugin {
            path: path.clone(),
            problem,
        };
        let of = format!("the plugin of the credential provider {:?}", provider.name);
        match std::fs::metadata(&path) {
            Err(error) => return Err(fail(format!("cannot be read: {error}; it is {of}"))),
            Ok(found) if !is_executable(&found) => {
                return Err(fail(format!("is not an executable file; it is {of}")));
            }
            Ok(_) => {}
        }
        Ok(Self {
            path,
            api: provider.api,
            args: provider.args.clone(),
            env: provider.env.clone(),
        })
    }

    /// Runs the plugin for an image, which has neither a tag nor a digest.
    ///
    /// # Errors
    ///
    /// What went wrong, without anything of its stdout.
    pub(super) async fn ask(
        &self,
        image: &str,
        caller: Option<&Caller>,
    ) -> Result<Response, String> {
        let mut request = json!({
            "apiVersion": self.api.as_str(),
            "kind": "CredentialProviderRequest",
            "image": image,
        });
        if let (Some(caller), Value::Object(fields)) = (caller, &mut request) {
            fields.insert(
                "serviceAccountToken".to_owned(),
                caller.token.expose_secret().into(),
            );
            if !caller.annotations.is_empty() {
                let annotations = json!(caller.annotations);
                fields.insert("serviceAccountAnnotations".to_owned(), annotations);
            }
        }
        // Added to this program's environment, as in the kubelet.
        let env = self.env.iter();
        let env = env.map(|(name, value)| (name.as_str(), value.expose_secret()));
        let mut command = Command::new(&self.path);
        command.args(&self.args).envs(env);
        let finished = run(&mut command, request.to_string().as_bytes()).await;
        let finished = finished.map_err(|error| match &error {
            // The program was there at the start.
            ProcessError::Start(cause) if cause.kind() == io::ErrorKind::NotFound => format!(
                "{error}: the file is missing, or it needs a loader or an interpreter that is missing; only \
                 static binaries run in the agent's image"
            ),
            _ => error.to_string(),
        })?;
        if !finished.status.success() {
            let mut message = finished.stderr;
            if let Some(caller) = caller {
                message = message.replace(caller.token.expose_secret(), "(token)");
            }
            let message = plain_text(&message, MESSAGE_MAX);
            let message = match message.as_str() {
                "" => "it printed nothing on stderr",
                message => message,
            };
            return Err(format!("failed ({}): {message}", finished.status));
        }
        parse(self.api, &finished.stdout)
            .map_err(|problem| format!("returned an invalid response: {problem}"))
    }
}

/// Reads a response. Problems repeat nothing of it, because it holds passwords.
pub(super) fn parse(api: PluginApi, content: &[u8]) -> Result<Response, String> {
    let object = serde_json::from_slice(content).map_err(|error: serde_json::Error| {
        format!(
            "it is not valid JSON (line {}, column {})",
            error.line(),
            error.column()
        )
    })?;
    let Value::Object(fields) = object else {
        return Err("it must be an object".to_owned());
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    // The kubelet requires the version that it asked in.
    if text("apiVersion") != Some(api.as_str()) {
        return Err(format!("apiVersion must be {}", api.as_str()));
    }
    if text("kind") != Some("CredentialProviderResponse") {
        return Err("kind must be CredentialProviderResponse".to_owned());
    }
    let scope = match text("cacheKeyType") {
        Some("Image") => CacheScope::Image,
        Some("Registry") => CacheScope::Registry,
        Some("Global") => CacheScope::Global,
        _ => return Err("cacheKeyType must be Image, Registry or Global".to_owned()),
    };
    let duration = match fields.get("cacheDuration") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(cache_duration(text)?),
        Some(_) => return Err("cacheDuration must be a string".to_owned()),
    };
    let entries = match fields.get("auth") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(entries)) => entries.iter().collect(),
        Some(_) => return Err("auth must be an object".to_owned()),
    };
    let auths = entries.into_iter().map(|(pattern, entry)| {
        let text = |name| match entry.get(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("{name} in auth must be a string")),
        };
        if !entry.is_object() {
            return Err("the values of auth must be objects".to_owned());
        }
        Ok(PluginAuth {
            pattern: pattern.clone(),
            username: text("username")?,
            password: SecretString::from(text("password")?),
        })
    });
    Ok(Response {
        scope,
        duration,
        auths: auths.collect::<Result<_, _>>()?,
    })
}

/// A duration as in Go. A negative one has passed, as in the kubelet.
fn cache_duration(text: &str) -> Result<Duration, String> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let duration = rest.parse::<GoDuration>();
    let duration = duration.map_err(|_| "cacheDuration must be a duration, for example 10m")?;
    Ok(if negative { Duration::ZERO } else { duration.0 })
}

#[cfg(unix)]
fn is_executable(file: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.is_file() && file.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(file: &std::fs::Metadata) -> bool {
    file.is_file()
}
