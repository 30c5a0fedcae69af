//! Docker's credential helpers: programs `docker-credential-NAME` that keep the credentials of a user.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fledged_core::error::plain_text;
use fledged_core::model::ImageRef;
use fledged_core::port::RegistryAuth;
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::process::Command;
use tokio::time::Instant;

use super::credential_process::{ProcessError, Runs, run};

/// How long what a helper returned is used for other images of the registry.
const SHARED_FOR: Duration = Duration::from_secs(10);
/// Longest part of a helper's text that an error repeats, in characters.
const MESSAGE_MAX: usize = 400;
/// The message of every helper for a registry without credentials.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The name of Docker Hub for helpers.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Which helper has the credentials of which registry (`credsStore`, `credHelpers`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HelperNames {
    store: Option<String>,
    /// By the registry as an image names it. An empty name disables `store` for the registry.
    by_registry: Vec<(String, String)>,
}

impl HelperNames {
    /// Reads the helpers of a docker configuration.
    ///
    /// # Errors
    ///
    /// The field that has the wrong type.
    pub(super) fn parse(fields: &Map<String, Value>) -> Result<Self, &'static str> {
        let store = match fields.get("credsStore") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => Some(name.clone()).filter(|name| !name.is_empty()),
            Some(_) => return Err("\"credsStore\" must be a string"),
        };
        let mut by_registry = Vec::new();
        match fields.get("credHelpers") {
            None | Some(Value::Null) => {}
            Some(Value::Object(entries)) => {
                for (registry, name) in entries {
                    let name = name
                        .as_str()
                        .ok_or("the values of \"credHelpers\" must be strings")?;
                    by_registry.push((registry_of(registry), name.to_owned()));
                }
            }
            Some(_) => return Err("\"credHelpers\" must be an object"),
        }
        Ok(Self { store, by_registry })
    }

    /// All names, for a message.
    pub(super) fn all(&self) -> Vec<String> {
        let store = self.store.iter().cloned();
        let others = self.by_registry.iter();
        let others = others.filter(|(_, name)| !name.is_empty());
        store
            .chain(others.map(|(registry, name)| format!("{name} for {registry}")))
            .collect()
    }

    /// The first name that is not the end of a program's name.
    pub(super) fn invalid(&self) -> Option<&str> {
        let names = self.by_registry.iter().map(|(_, name)| name);
        let mut names = self.store.iter().chain(names).map(String::as_str);
        // A path would run another program.
        names.find(|name| {
            name.contains(|c: char| c == '/' || c == '\\' || c.is_whitespace() || c.is_control())
        })
    }

    /// The helper for an image, as in docker: that of the registry, else that of all.
    fn find(&self, image: &ImageRef) -> Option<&str> {
        let registry = image.registry().to_ascii_lowercase();
        let own = self.by_registry.iter().find(|(of, _)| *of == registry);
        let name = own.map(|(_, name)| name).or(self.store.as_ref())?;
        Some(name.as_str()).filter(|name| !name.is_empty())
    }
}

/// The registry of a key, as an image names it: `docker.io` for `https://index.docker.io/v1/`.
fn registry_of(key: &str) -> String {
    let rest = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let host = rest.split('/').next().unwrap_or_default();
    match host.to_ascii_lowercase().as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

type Answer = Result<Option<RegistryAuth>, String>;
/// Helper and registry.
type Key = (String, String);
/// What was just returned, and when.
type Returned = HashMap<Key, (Instant, Option<RegistryAuth>)>;

/// Runs helpers.
#[derive(Clone, Default)]
pub(super) struct Helpers {
    /// Where the programs are; in `$PATH` by default.
    folder: Option<PathBuf>,
    runs: Arc<Runs<Key, Option<RegistryAuth>>>,
    returned: Arc<Mutex<Returned>>,
}

impl fmt::Debug for Helpers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Helpers").finish_non_exhaustive()
    }
}

impl Helpers {
    /// The credentials of the image's helper, if it has one and that has some.
    ///
    /// # Errors
    ///
    /// Which helper failed or did not finish within `limit`, and its message.
    pub(super) async fn ask(
        &self,
        names: &HelperNames,
        image: &ImageRef,
        limit: Option<Duration>,
    ) -> Answer {
        let Some(name) = names.find(image) else {
            return Ok(None);
        };
        let server = match image.registry() {
            "docker.io" => DOCKER_HUB,
            registry => registry,
        };
        let key = (name.to_owned(), server.to_owned());
        {
            let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
            returned.retain(|_, (at, _)| at.elapsed() < SHARED_FOR);
            if let Some((_, auth)) = returned.get(&key) {
                return Ok(auth.clone());
            }
        }
        let program = format!("docker-credential-{name}");
        let path = match &self.folder {
            Some(folder) => folder.join(&program),
            None => PathBuf::from(&program),
        };
        let run = || get(path, server.to_owned());
        let auth = self.runs.wait(key.clone(), limit, run).await;
        let auth = auth.map_err(|problem| format!("{program} for {server}: {problem}"))?;
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        returned.insert(key, (Instant::now(), auth.clone()));
        Ok(auth)
    }
}

/// `docker-credential-NAME get`: the registry on stdin, JSON on stdout.
async fn get(path: PathBuf, server: String) -> Answer {
    let mut command = Command::new(path);
    command.arg("get");
    let finished = run(&mut command, server.as_bytes()).await;
    let finished = finished.map_err(|error| match &error {
        ProcessError::Start(cause) if cause.kind() == io::ErrorKind::NotFound => {
            "the program is not installed, or not in $PATH".to_owned()
        }
        _ => error.to_string(),
    })?;
    if !finished.status.success() {
        // Helpers print their errors on stdout.
        let text = String::from_utf8_lossy(&finished.stdout);
        if text.trim() == NOT_FOUND {
            return Ok(None);
        }
        let shown = match text.trim() {
            // It may be the credentials.
            text if text.is_empty() || text.contains('{') => finished.stderr.trim(),
            text => text,
        };
        let shown = plain_text(shown, MESSAGE_MAX);
        return Err(format!("failed ({}): {shown}", finished.status));
    }
    parse_answer(&finished.stdout).ok_or_else(|| "returned no valid credentials".to_owned())
}

/// The credentials in a helper's output, if it holds any. `None` if it is invalid.
pub(super) fn parse_answer(stdout: &[u8]) -> Option<Option<RegistryAuth>> {
    let object: Map<String, Value> = serde_json::from_slice(stdout).ok()?;
    let text = |name| match object.get(name) {
        None | Some(Value::Null) => Some(""),
        Some(Value::String(text)) => Some(text.as_str()),
        Some(_) => None,
    };
    Some(match (text("Username")?, text("Secret")?) {
        (_, "") => None,
        ("<token>", secret) => Some(RegistryAuth::IdentityToken(SecretString::from(secret))),
        (username, secret) => Some(RegistryAuth::basic(username, secret)),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use secrecy::ExposeSecret;
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    fn mk_names(config: Value) -> HelperNames {
        HelperNames::parse(config.as_object().unwrap()).unwrap()
    }

    /// A helper `test` that logs what it is asked and runs a script.
    fn mk_helper(script: &str) -> (TempDir, Helpers) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker-credential-test");
        let log = folder.path().join("log");
        let start = format!(
            "#!/bin/sh\nserver=$(cat)\necho \"$1 $server\" >>{}\n",
            log.display()
        );
        fs::write(&path, start + script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let helpers = Helpers {
            folder: Some(folder.path().to_owned()),
            ..Helpers::default()
        };
        (folder, helpers)
    }

    async fn ask(helpers: &Helpers, image: &str) -> Result<String, String> {
        let names = mk_names(json!({"credsStore": "test"}));
        let image = image.parse().unwrap();
        Ok(match helpers.ask(&names, &image, None).await? {
            None => "none".to_owned(),
            Some(RegistryAuth::Basic { username, password }) => {
                format!("{username}:{}", password.expose_secret())
            }
            Some(RegistryAuth::IdentityToken(token)) => {
                format!("identity {}", token.expose_secret())
            }
            Some(RegistryAuth::RegistryToken(_)) => "registry token".to_owned(),
        })
    }

    #[test]
    fn the_helper_of_the_registry_precedes_that_of_all() {
        let names = mk_names(json!({
            "credsStore": "desktop",
            "credHelpers": {
                "1.dkr.ecr.eu-west-1.amazonaws.com": "ecr-login", "r.example:5000": "own",
                "https://index.docker.io/v1/": "hub", "plain.example": "",
            },
        }));
        for (image, helper) in [
            ("1.dkr.ecr.eu-west-1.amazonaws.com/app", Some("ecr-login")),
            ("r.example:5000/app", Some("own")),
            ("r.example/app", Some("desktop")),
            ("nginx", Some("hub")),
            ("plain.example/app", None),
        ] {
            assert_eq!(names.find(&image.parse().unwrap()), helper, "{image}");
        }
        let image = "r.example/app".parse().unwrap();
        for none in [json!({}), json!({"credsStore": "", "credHelpers": null})] {
            assert_eq!(mk_names(none).find(&image), None);
        }
        assert_eq!(names.all().len(), 4);
    }

    #[test]
    fn names_with_a_path_are_invalid() {
        assert_eq!(mk_names(json!({"credsStore": "ecr-login"})).invalid(), None);
        for name in ["../evil", "/bin/sh", "a\\b", "a b", "a\n"] {
            for config in [
                json!({"credsStore": name}),
                json!({"credHelpers": {"r.example": name}}),
            ] {
                assert_eq!(mk_names(config).invalid(), Some(name));
            }
        }
    }

    #[tokio::test]
    async fn credentials_and_tokens_are_read() {
        for (output, expected) in [
            (
                json!({"ServerURL": "x", "Username": "u", "Secret": "p"}),
                "u:p",
            ),
            (json!({"Username": "<token>", "Secret": "t"}), "identity t"),
            (json!({"Username": "", "Secret": "t"}), ":t"),
            (json!({"Username": "u", "Secret": ""}), "none"),
            (json!({}), "none"),
        ] {
            let (_folder, helpers) = mk_helper(&format!("echo '{output}'"));
            assert_eq!(
                ask(&helpers, "r.example/app").await.as_deref(),
                Ok(expected)
            );
        }
        let (_folder, helpers) =
            mk_helper("echo 'credentials not found in native keychain'; exit 1");
        assert_eq!(ask(&helpers, "r.example/app").await.as_deref(), Ok("none"));
    }

    #[tokio::test]
    async fn a_helper_is_asked_once_for_a_registry() {
        let (folder, helpers) = mk_helper("echo '{\"Username\":\"u\",\"Secret\":\"p\"}'");
        for image in ["r.example:5000/a", "r.example:5000/b", "nginx", "redis"] {
            assert_eq!(ask(&helpers, image).await.as_deref(), Ok("u:p"));
        }
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(log, "get r.example:5000\nget https://index.docker.io/v1/\n");
    }

    #[tokio::test]
    async fn failures_name_the_helper_and_no_secret() {
        for (script, words) in [
            (
                "echo 'store is locked'; exit 1",
                "failed (exit status: 1): store is locked",
            ),
            (
                "echo 'on stderr' >&2; exit 2",
                "failed (exit status: 2): on stderr",
            ),
            (
                "echo '{\"Secret\":\"s3cret\"}'; exit 1",
                "failed (exit status: 1): ",
            ),
            ("echo s3cret", "returned no valid credentials"),
            ("echo '[\"s3cret\"]'", "returned no valid credentials"),
            (
                "echo '{\"Username\":1,\"Secret\":\"s3cret\"}'",
                "returned no valid credentials",
            ),
        ] {
            let (_folder, helpers) = mk_helper(script);
            let problem = ask(&helpers, "r.example/app").await.unwrap_err();
            assert!(
                problem.starts_with("docker-credential-test for r.example: "),
                "{problem}"
            );
            assert!(problem.contains(words), "{problem}");
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        let (folder, helpers) = mk_helper("");
        fs::remove_file(folder.path().join("docker-credential-test")).unwrap();
        let problem = ask(&helpers, "r.example/app").await.unwrap_err();
        assert!(problem.contains("not in $PATH"), "{problem}");
    }
}
