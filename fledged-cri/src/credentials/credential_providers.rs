//! Credentials from the kubelet's credential-provider plugins (KEP-2133, KEP-4412).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ImageRef, ObjectName};
use fledged_core::port::{
    Credentials, CredentialsProblem, CredentialsRequest, FoundCredentials, RegistryAuth,
};
use futures_util::future::join_all;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::credential_process::Runs;
use super::keyring::Keyring;
use super::provider_config::{
    CredentialProviderError, Provider, TokenAttributes, TokenCache, read,
};
use super::provider_plugin::{CacheScope, Caller, Plugin, PluginAuth, Response};

/// The parts of a ServiceAccount that plugins get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceAccountFacts {
    /// Its UID.
    pub uid: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// ServiceAccounts and their tokens, for plugins with `tokenAttributes` (KEP-4412).
#[async_trait]
pub trait ServiceAccounts: Send + Sync {
    /// Reads a ServiceAccount.
    ///
    /// # Errors
    ///
    /// Why it cannot be read.
    async fn facts(&self, name: &ObjectName) -> Result<ServiceAccountFacts, Failure>;

    /// A token of the ServiceAccount with that UID for one audience. It is valid for some minutes at least.
    ///
    /// # Errors
    ///
    /// Why there is none.
    async fn token(
        &self,
        name: &ObjectName,
        uid: &str,
        audience: &str,
    ) -> Result<SecretString, Failure>;
}

/// Credentials from the plugins of the kubelet's `--image-credential-provider-config` and
/// `--image-credential-provider-bin-dir`.
///
/// All plugins that match an image are run, and their entries are merged like those of a docker configuration: the
/// most specific first, then in the order of the plugins. Responses are cached as they ask for. The credentials
/// are the node's own and belong to no namespace, as with pods. A plugin that fails does not affect the others.
///
/// ```no_run
/// use fledged_cri::CredentialProviders;
///
/// let credentials = CredentialProviders::open(
///     "/etc/kubernetes/credential-providers.yaml",
///     "/usr/local/bin/credential-providers",
/// )?;
/// # Ok::<(), fledged_cri::CredentialProviderError>(())
/// ```
pub struct CredentialProviders {
    providers: Vec<PluginProvider>,
    accounts: Option<Arc<dyn ServiceAccounts>>,
}

impl fmt::Debug for CredentialProviders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.providers.iter().map(|provider| &provider.config.name);
        f.debug_struct("CredentialProviders")
            .field("providers", &names.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl CredentialProviders {
    /// Reads a `CredentialProviderConfig`, YAML or JSON, in a file or in the files of a directory; the plugins are
    /// in `plugins`.
    ///
    /// # Errors
    ///
    /// [`CredentialProviderError`] if the configuration is invalid or a plugin is missing, as in the kubelet.
    pub fn open(
        config: impl AsRef<Path>,
        plugins: impl AsRef<Path>,
    ) -> Result<Self, CredentialProviderError> {
        let plugins = plugins.as_ref();
        match std::fs::metadata(plugins) {
            Ok(found) if found.is_dir() => {}
            result => {
                let problem = match result {
                    Ok(_) => "is not a directory".to_owned(),
                    Err(error) => format!("cannot be read: {error}"),
                };
                return Err(CredentialProviderError::Plugin {
                    path: plugins.to_owned(),
                    problem,
                });
            }
        }
        let providers = read(config.as_ref())?.into_iter().map(|config| {
            Ok(PluginProvider {
                plugin: Arc::new(Plugin::open(plugins, &config)?),
                config,
                cache: Mutex::default(),
                runs: Runs::default(),
            })
        });
        Ok(Self {
            providers: providers.collect::<Result<_, _>>()?,
            accounts: None,
        })
    }

    /// With ServiceAccounts, for plugins with `tokenAttributes`. Without them, such a plugin is only run if its
    /// `requireServiceAccount` is false.
    #[must_use]
    pub fn with_service_accounts(mut self, accounts: Arc<dyn ServiceAccounts>) -> Self {
        self.accounts = Some(accounts);
        self
    }

    /// The entries of one provider for an image, on behalf of each of these ServiceAccounts if it needs one.
    async fn entries(
        &self,
        provider: &PluginProvider,
        request: &CredentialsRequest,
    ) -> (Vec<PluginAuth>, Vec<Failure>) {
        let config = &provider.config;
        let problem = |text: String, transient| {
            let reason = match transient {
                true => Reason::ConnectionFailed,
                false => Reason::CredentialsUnavailable,
            };
            Failure::new(
                reason,
                format!("credential provider {:?}: {text}", config.name),
            )
        };
        let until = request.limit.map(|limit| Instant::now() + limit);
        let Some(attributes) = &config.token else {
            return match provider.ask(&request.image, until).await {
                Ok(auths) => (auths, Vec::new()),
                Err(text) => (Vec::new(), vec![problem(text, false)]),
            };
        };
        let callers: Vec<Option<&ObjectName>> = match &self.accounts {
            Some(_) if !request.service_accounts.is_empty() => {
                request.service_accounts.iter().map(Some).collect()
            }
            _ if !attributes.require_account => vec![None],
            // The kubelet goes on without a word; here nobody would know why the pull is refused.
            Some(_) => {
                let text = "it requires a ServiceAccount (tokenAttributes.requireServiceAccount), and no ImageCache \
                            with the image names one (spec.serviceAccountName)";
                return (Vec::new(), vec![problem(text.to_owned(), false)]);
            }
            None => {
                let text = "it requires the token of a ServiceAccount (tokenAttributes.requireServiceAccount), and \
                            tokens are not available here";
                return (Vec::new(), vec![problem(text.to_owned(), false)]);
            }
        };
        let (mut auths, mut problems) = (Vec::new(), Vec::new());
        for caller in callers {
            let asked = match (caller, &self.accounts) {
                (Some(name), Some(accounts)) => {
                    let accounts = accounts.as_ref();
                    provider
                        .ask_for(&request.image, attributes, name, accounts, until)
                        .await
                }
                _ => {
                    let asked = provider.ask(&request.image, until).await;
                    asked.map_err(|text| (text, false))
                }
            };
            match asked {
                Ok(found) => auths.extend(found),
                Err((text, transient)) => problems.push(problem(text, transient)),
            }
        }
        (auths, problems)
    }
}

#[async_trait]
impl Credentials for CredentialProviders {
    async fn resolve(&self, request: &CredentialsRequest) -> FoundCredentials {
        let mut keyring = Keyring::default();
        let mut problems = Vec::new();
        let matching = self.providers.iter();
        let matching = matching.filter(|provider| provider.matches(&request.image));
        // At the same time, as in the kubelet.
        let asked = matching.map(|provider| self.entries(provider, request));
        for (auths, failed) in join_all(asked).await {
            problems.extend(failed);
            for auth in auths {
                let empty = auth.username.is_empty() && auth.password.expose_secret().is_empty();
                let entry = RegistryAuth::Basic {
                    username: auth.username,
                    password: auth.password,
                };
                keyring.add(&auth.pattern, Ok((!empty).then_some(entry)));
            }
        }
        let mut found = FoundCredentials::from(keyring.find(&request.image).auths);
        for problem in &problems {
            tracing::warn!(
                image = %request.image,
                %problem,
                matched = found.auths.len(),
                "credential provider failed"
            );
        }
        found.problems = problems
            .into_iter()
            .map(CredentialsProblem::of_node)
            .collect();
        found
    }
}

/// The ServiceAccount that a response depends on, and its token if the response ends with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct AccountKey {
    name: ObjectName,
    uid: String,
    annotations: BTreeMap<String, String>,
    token: Option<TokenKey>,
}

/// A token as a key. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey(String);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

/// The images that a cached response is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum ScopeKey {
    Image(String),
    Registry(String),
    Global,
}

type CacheKey = (ScopeKey, Option<AccountKey>);

/// Responses until they expire.
#[derive(Default)]
struct ResponseCache(HashMap<CacheKey, (Instant, Vec<PluginAuth>)>);

impl ResponseCache {
    /// The most specific response for an image.
    fn get(
        &mut self,
        image: &ImageRef,
        account: Option<&AccountKey>,
        now: Instant,
    ) -> Option<Vec<PluginAuth>> {
        self.0.retain(|_, (expires, _)| now < *expires);
        let scopes = [
            ScopeKey::Image(image.name().to_owned()),
            ScopeKey::Registry(image.registry().to_owned()),
            ScopeKey::Global,
        ];
        scopes
            .into_iter()
            .find_map(|scope| self.0.get(&(scope, account.cloned())))
            .map(|(_, auths)| auths.clone())
    }

    fn put(
        &mut self,
        image: &ImageRef,
        account: Option<AccountKey>,
        response: &Response,
        default: Duration,
        now: Instant,
    ) {
        let scope = match response.scope {
            CacheScope::Image => ScopeKey::Image(image.name().to_owned()),
            CacheScope::Registry => ScopeKey::Registry(image.registry().to_owned()),
            CacheScope::Global => ScopeKey::Global,
        };
        let duration = response.duration.unwrap_or(default).min(CACHED_MAX);
        if !duration.is_zero() {
            let auths = response.auths.clone();
            self.0.insert((scope, account), (now + duration, auths));
        }
    }
}

/// Longest time that a response is cached, so that the end can be computed.
const CACHED_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A plugin with its configuration and its responses.
struct PluginProvider {
    config: Provider,
    plugin: Arc<Plugin>,
    cache: Mutex<ResponseCache>,
    /// Requests for the same image and account share a run.
    runs: Runs<(String, Option<AccountKey>), Response>,
}

impl PluginProvider {
    fn matches(&self, image: &ImageRef) -> bool {
        let mut patterns = self.config.match_images.iter();
        patterns.any(|pattern| pattern.matches(image))
    }

    fn cached(&self, image: &ImageRef, account: Option<&AccountKey>) -> Option<Vec<PluginAuth>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(image, account, Instant::now())
    }

    /// The entries for an image without a ServiceAccount.
    async fn ask(
        &self,
        image: &ImageRef,
        until: Option<Instant>,
    ) -> Result<Vec<PluginAuth>, String> {
        match self.cached(image, None) {
            Some(auths) => Ok(auths),
            None => self.call(image, None, None, until).await,
        }
    }

    /// The entries for an image on behalf of a ServiceAccount, or what failed and whether that is transient.
    async fn ask_for(
        &self,
        image: &ImageRef,
        attributes: &TokenAttributes,
        name: &ObjectName,
        accounts: &dyn ServiceAccounts,
        until: Option<Instant>,
    ) -> Result<Vec<PluginAuth>, (String, bool)> {
        let failed = |what: &str, failure: Failure| {
            let text = format!("cannot {what} of ServiceAccount {name}: {failure}");
            (text, failure.class().is_transient())
        };
        let facts = accounts.facts(name).await;
        let facts = facts.map_err(|failure| failed("read the data", failure))?;
        let mut annotations = BTreeMap::new();
        for key in &attributes.required_annotations {
            // With the kubelet, a ServiceAccount opts in by the annotation.
            let value = facts.annotations.get(key).ok_or_else(|| {
                let text = format!("ServiceAccount {name} lacks the annotation {key:?} (tokenAttributes.requiredServiceAccountAnnotationKeys)");
                (text, false)
            })?;
            annotations.insert(key.clone(), value.clone());
        }
        for key in &attributes.optional_annotations {
            if let Some(value) = facts.annotations.get(key) {
                annotations.insert(key.clone(), value.clone());
            }
        }
        let mut key = AccountKey {
            name: name.clone(),
            uid: facts.uid.clone(),
            annotations: annotations.clone(),
            token: None,
        };
        if attributes.cache == TokenCache::ServiceAccount
            && let Some(auths) = self.cached(image, Some(&key))
        {
            return Ok(auths);
        }
        let token = accounts.token(name, &facts.uid, &attributes.audience).await;
        let token =
            token.map_err(|failure| failed("obtain a token (serviceaccounts/token)", failure))?;
        if attributes.cache == TokenCache::Token {
            key.token = Some(TokenKey(token.expose_secret().to_owned()));
            if let Some(auths) = self.cached(image, Some(&key)) {
                return Ok(auths);
            }
        }
        let caller = Caller { token, annotations };
        let called = self.call(image, Some(key), Some(caller), until).await;
        called.map_err(|text| (text, false))
    }

    /// Runs the plugin, unless the same run is in progress.
    async fn call(
        &self,
        image: &ImageRef,
        account: Option<AccountKey>,
        caller: Option<Caller>,
        until: Option<Instant>,
    ) -> Result<Vec<PluginAuth>, String> {
        let key = (image.name().to_owned(), account.clone());
        let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
        let run = || {
            let (plugin, name) = (Arc::clone(&self.plugin), image.name().to_owned());
            let caller = caller.clone();
            async move { plugin.ask(&name, caller.as_ref()).await }
        };
        let response = self.runs.wait(key, limit, run).await?;
        // A token that is returned as it is ends before the response does.
        let echoes = |auth: &PluginAuth, caller: &Caller| {
            auth.password.expose_secret() == caller.token.expose_secret()
        };
        let by_account = account.as_ref().is_some_and(|key| key.token.is_none());
        if let Some(caller) = caller.filter(|_| by_account)
            && response.auths.iter().any(|auth| echoes(auth, &caller))
        {
            return Err(
                "returned the ServiceAccount's token as the password, which requires tokenAttributes.cacheType Token"
                    .to_owned(),
            );
        }
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let default = self.config.default_cache_duration;
        cache.put(image, account, &response, default, Instant::now());
        Ok(response.auths)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    const V1: &str = "credentialprovider.kubelet.k8s.io/v1";

    /// A directory with plugins, each a shell script, and their configuration.
    struct Node {
        folder: TempDir,
        providers: Vec<Value>,
    }

    impl Node {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
                providers: Vec::new(),
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn script(&self, name: &str, script: &str) {
            let path = self.path(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        /// A plugin that logs each request to `NAME.log` and runs a script.
        fn plugin(mut self, name: &str, changes: Value, script: &str) -> Self {
            let log = self.path(&format!("{name}.log"));
            let log = log.display();
            // One write for each request: plugins run at the same time.
            let record = format!("printf '%s\\n' \"$(cat)\" >>{log}");
            self.script(name, &format!("{record}\n{script}"));
            let mut provider = json!({
                "name": name, "matchImages": ["*.example", "docker.io"],
                "defaultCacheDuration": "1h", "apiVersion": V1,
            });
            for (field, value) in changes.as_object().unwrap() {
                provider[field] = value.clone();
            }
            self.providers.push(provider);
            self
        }

        fn open(&self) -> Result<CredentialProviders, CredentialProviderError> {
            let config = self.path("config.yaml");
            let object = json!({
                "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
                "providers": self.providers,
            });
            fs::write(&config, object.to_string()).unwrap();
            CredentialProviders::open(config, self.folder.path())
        }

        /// The requests that a plugin got.
        fn requests(&self, name: &str) -> Vec<Value> {
            let log = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
            log.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        }
    }

    /// A script that prints a response.
    fn answer(fields: Value) -> String {
        let mut response = json!({
            "apiVersion": V1, "kind": "CredentialProviderResponse", "cacheKeyType": "Image",
        });
        for (field, value) in fields.as_object().unwrap() {
            response[field] = value.clone();
        }
        format!("cat <<'END'\n{response}\nEND")
    }

    fn auth(entries: &[(&str, &str)]) -> Value {
        let entries = entries.iter().map(|(pattern, user)| {
            let entry = json!({"username": user, "password": "s3cret"});
            ((*pattern).to_owned(), entry)
        });
        json!({"auth": entries.collect::<serde_json::Map<_, _>>()})
    }

    fn request(image: &str) -> CredentialsRequest {
        CredentialsRequest::new(image.parse().unwrap())
    }

    async fn users_of(
        providers: &CredentialProviders,
        request: &CredentialsRequest,
    ) -> Result<Vec<String>, Failure> {
        let user = |auth| match auth {
            RegistryAuth::Basic { username, password } => {
                assert_eq!(password.expose_secret(), "s3cret");
                username
            }
            other => panic!("{other:?}"),
        };
        let auths = providers.resolve(request).await.usable();
        if let Err(failure) = &auths {
            assert!(!failure.message.contains("s3cret"), "{failure}");
        }
        Ok(auths?.into_iter().map(user).collect())
    }

    async fn users(providers: &CredentialProviders, image: &str) -> Result<Vec<String>, Failure> {
        users_of(providers, &request(image)).await
    }

    #[tokio::test]
    async fn a_plugin_gets_request_arguments_and_environment() {
        let changes = json!({
            "args": ["get", "--quiet"], "env": [{"name": "FLEDGED_USER", "value": "from-env"}],
        });
        let script = answer(auth(&[("r.example", "USER")]));
        let script = script
            .replace("<<'END'", "<<END")
            .replace("USER", "$FLEDGED_USER-$1-$2-${PATH:+path}");
        let node = Node::new().plugin("ecr", changes, &script);
        let providers = node.open().unwrap();
        let users = users(&providers, "r.example/team/app:1").await.unwrap();
        assert_eq!(users, ["from-env-get---quiet-path"]);
        let expected = json!({
            "apiVersion": V1, "kind": "CredentialProviderRequest", "image": "r.example/team/app",
        });
        assert_eq!(node.requests("ecr"), [expected]);
    }

    #[tokio::test]
    async fn only_matching_plugins_are_run() {
        let node = Node::new().plugin("ecr", json!({}), &answer(auth(&[("*.example", "u")])));
        let providers = node.open().unwrap();
        for image in ["quay.io/app", "r.example:5000/app", "a.r.example/app"] {
            assert_eq!(users(&providers, image).await.unwrap(), [""; 0], "{image}");
        }
        assert_eq!(node.requests("ecr"), [] as [Value; 0]);
        assert_eq!(users(&providers, "r.example/app").await.unwrap(), ["u"]);
        // The images of Docker Hub have their full name.
        assert_eq!(users(&providers, "nginx").await.unwrap(), [""; 0]);
        assert_eq!(node.requests("ecr")[1]["image"], "docker.io/library/nginx");
    }

    #[tokio::test]
    async fn responses_of_all_plugins_are_merged_most_specific_first() {
        let first = auth(&[
            ("*.example", "glob"),
            ("r.example", "first"),
            ("other.example", "no"),
        ]);
        let second = auth(&[("r.example/team", "team"), ("r.example", "second")]);
        let node = Node::new()
            .plugin("a", json!({}), &answer(first))
            .plugin("b", json!({}), &answer(second))
            .plugin("c", json!({}), &answer(json!({"auth": null})));
        let providers = node.open().unwrap();
        let users = users(&providers, "r.example/team/app").await.unwrap();
        assert_eq!(users, ["team", "first", "second", "glob"]);
    }

    #[tokio::test]
    async fn a_failed_plugin_does_not_affect_the_others() {
        let fails = "echo 'no instance role' >&2; exit 2";
        let node = Node::new().plugin("a", json!({}), fails).plugin(
            "b",
            json!({}),
            &answer(auth(&[("r.example", "b")])),
        );
        let providers = node.open().unwrap();
        assert_eq!(users(&providers, "r.example/app").await.unwrap(), ["b"]);
        // Failures are not cached.
        let failure = users(&providers, "x.example/app").await.unwrap_err();
        assert_eq!(failure.reason, Reason::CredentialsUnavailable);
        assert_eq!(
            failure.message,
            "credential provider \"a\": failed (exit status: 2): no instance role"
        );
        assert!(users(&providers, "x.example/app").await.is_err());
        assert_eq!(node.requests("a").len(), 3);
    }

    #[tokio::test]
    async fn invalid_responses_are_reported_without_their_content() {
        for (script, words) in [
            ("echo s3cret".to_owned(), "it is not valid JSON (line 1"),
            ("true".to_owned(), "it is not valid JSON"),
            ("echo '[]'".to_owned(), "it must be an object"),
            (
                answer(json!({"apiVersion": "credentialprovider.kubelet.k8s.io/v1beta1"})),
                "apiVersion must be credentialprovider.kubelet.k8s.io/v1",
            ),
            (
                answer(json!({"kind": "s3cret"})),
                "kind must be CredentialProviderResponse",
            ),
            (
                answer(json!({"cacheKeyType": "s3cret"})),
                "cacheKeyType must be Image, Registry or Global",
            ),
            (
                answer(json!({"cacheDuration": "s3cret"})),
                "cacheDuration must be a duration",
            ),
            (
                answer(json!({"cacheDuration": 3})),
                "cacheDuration must be a string",
            ),
            (
                answer(json!({"auth": ["s3cret"]})),
                "auth must be an object",
            ),
            (
                answer(json!({"auth": {"r.example": "s3cret"}})),
                "values of auth must be objects",
            ),
            (
                answer(json!({"auth": {"r.example": {"password": ["s3cret"]}}})),
                "password in auth must be a string",
            ),
        ] {
            let node = Node::new().plugin("ecr", json!({}), &script);
            let failure = users(&node.open().unwrap(), "r.example/app")
                .await
                .unwrap_err();
            assert_eq!(failure.reason, Reason::CredentialsUnavailable);
            assert!(failure.message.contains(words), "{words}: {failure}");
            assert!(
                failure.message.starts_with("credential provider \"ecr\": "),
                "{failure}"
            );
        }
    }

    #[tokio::test]
    async fn stderr_is_bounded_and_plain() {
        let script =
            "printf 'a\\033[31m\\nb' >&2; head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1";
        let node = Node::new().plugin("ecr", json!({}), script);
        let failure = users(&node.open().unwrap(), "r.example/app")
            .await
            .unwrap_err();
        assert!(failure.message.contains(": a[31m bxxx"), "{failure}");
        assert!(failure.message.chars().count() < 500, "{failure}");
    }

    #[tokio::test]
    async fn responses_are_cached_by_image_registry_or_for_all() {
        for (scope, calls) in [("Image", 3), ("Registry", 2), ("Global", 1)] {
            let mut response = auth(&[("*.example", "u")]);
            response["cacheKeyType"] = json!(scope);
            let node = Node::new().plugin("ecr", json!({}), &answer(response));
            let providers = node.open().unwrap();
            for image in [
                "r.example/a:1",
                "r.example/a:2",
                "r.example/b",
                "s.example/a",
            ] {
                assert_eq!(users(&providers, image).await.unwrap(), ["u"], "{scope}");
            }
            assert_eq!(node.requests("ecr").len(), calls, "{scope}");
        }
    }

    #[tokio::test]
    async fn zero_durations_are_not_cached() {
        for (default, duration, calls) in [
            ("1h", json!(null), 1),
            ("1h", json!("0s"), 2),
            ("1h", json!("-5m"), 2),
            ("0s", json!(null), 2),
            ("0s", json!("1h"), 1),
            ("0s", json!("2562047h"), 1),
        ] {
            let mut response = auth(&[("*.example", "u")]);
            response["cacheDuration"] = duration.clone();
            let changes = json!({"defaultCacheDuration": default});
            let node = Node::new().plugin("ecr", changes, &answer(response));
            let providers = node.open().unwrap();
            for _ in 0..2 {
                assert_eq!(users(&providers, "r.example/a").await.unwrap(), ["u"]);
            }
            assert_eq!(node.requests("ecr").len(), calls, "{default} {duration}");
        }
    }

    #[test]
    fn cached_responses_expire() {
        let response = |seconds: Option<u64>| Response {
            scope: CacheScope::Registry,
            duration: seconds.map(Duration::from_secs),
            auths: Vec::new(),
        };
        let (image, default) = ("r.example/a".parse().unwrap(), Duration::from_secs(60));
        let start = Instant::now();
        for (seconds, lives) in [(Some(5), 5), (None, 60)] {
            let mut cache = ResponseCache::default();
            cache.put(&image, None, &response(seconds), default, start);
            let after = |seconds| start + Duration::from_secs(seconds);
            assert!(cache.get(&image, None, after(lives - 1)).is_some());
            assert!(cache.get(&image, None, after(lives)).is_none());
            assert!(cache.0.is_empty());
        }
    }

    #[tokio::test]
    async fn concurrent_calls_for_one_image_are_shared() {
        let mut response = auth(&[("*.example", "u")]);
        response["cacheDuration"] = json!("0s");
        let folder = tempfile::tempdir().unwrap();
        let gate = folder.path().join("gate");
        let wait = format!("until [ -e {} ]; do sleep 0.01; done\n", gate.display());
        let node = Node::new().plugin("ecr", json!({}), &(wait + &answer(response)));
        let providers = node.open().unwrap();
        let open_gate = async {
            let deadline = std::time::Instant::now() + Duration::from_secs(60);
            while node.requests("ecr").len() < 2 && std::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            fs::write(&gate, "").unwrap();
        };
        let (one, two, other, ()) = tokio::join!(
            users(&providers, "r.example/a:1"),
            users(&providers, "r.example/a:2"),
            users(&providers, "r.example/b"),
            open_gate,
        );
        for found in [one, two, other] {
            assert_eq!(found.unwrap(), ["u"]);
        }
        assert_eq!(node.requests("ecr").len(), 2);
    }

    #[test]
    fn missing_plugins_are_named() {
        let node = Node::new().plugin("ecr", json!({}), "true");
        let error = |node: &Node| node.open().unwrap_err().to_string();
        let path = node.path("ecr");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let text = error(&node);
        assert!(text.contains("/ecr is not an executable file; it is the plugin of the credential provider \"ecr\""), "{text}");
        fs::remove_file(&path).unwrap();
        let text = error(&node);
        assert!(text.contains("/ecr cannot be read: "), "{text}");
        let text = CredentialProviders::open("/nonexistent", "/nonexistent")
            .unwrap_err()
            .to_string();
        assert!(text.contains("/nonexistent cannot be read: "), "{text}");
    }

    #[tokio::test]
    async fn a_plugin_without_its_interpreter_is_explained() {
        let node = Node::new().plugin("ecr", json!({}), "true");
        fs::write(node.path("ecr"), "#!/nonexistent/sh\n").unwrap();
        let failure = users(&node.open().unwrap(), "r.example/app")
            .await
            .unwrap_err();
        assert!(
            failure
                .message
                .contains("only static binaries run in the agent's image"),
            "{failure}"
        );
    }

    /// ServiceAccounts with numbered tokens.
    #[derive(Default)]
    struct Accounts {
        facts: BTreeMap<ObjectName, ServiceAccountFacts>,
        tokens: AtomicUsize,
    }

    #[async_trait]
    impl ServiceAccounts for Accounts {
        async fn facts(&self, name: &ObjectName) -> Result<ServiceAccountFacts, Failure> {
            let found = self.facts.get(name).cloned();
            found.ok_or_else(|| Failure::new(Reason::CredentialsUnavailable, "not found"))
        }

        async fn token(
            &self,
            name: &ObjectName,
            uid: &str,
            audience: &str,
        ) -> Result<SecretString, Failure> {
            let number = self.tokens.fetch_add(1, Ordering::Relaxed);
            Ok(SecretString::from(format!(
                "{}-{uid}-{audience}-{number}",
                name.name
            )))
        }
    }

    fn mk_accounts() -> Arc<Accounts> {
        let mut accounts = Accounts::default();
        for (name, uid) in [("one", "1"), ("two", "2"), ("plain", "3")] {
            let mut facts = ServiceAccountFacts {
                uid: uid.to_owned(),
                ..Default::default()
            };
            if name != "plain" {
                facts
                    .annotations
                    .insert("example.com/role".to_owned(), format!("role-{name}"));
            }
            facts
                .annotations
                .insert("example.com/other".to_owned(), "x".to_owned());
            accounts.facts.insert(ObjectName::new("shop", name), facts);
        }
        Arc::new(accounts)
    }

    fn token_attributes(cache: &str, required: bool) -> Value {
        let keys: &[&str] = if required { &["example.com/role"] } else { &[] };
        json!({"tokenAttributes": {
            "serviceAccountTokenAudience": "registry", "cacheType": cache, "requireServiceAccount": required,
            "requiredServiceAccountAnnotationKeys": keys,
        }})
    }

    fn request_of(image: &str, accounts: &[&str]) -> CredentialsRequest {
        let names = accounts.iter().map(|name| ObjectName::new("shop", *name));
        request(image).with_service_accounts(names)
    }

    #[tokio::test]
    async fn a_plugin_gets_the_token_of_the_service_account() {
        let node = Node::new().plugin(
            "acr",
            token_attributes("ServiceAccount", true),
            &answer(auth(&[("*.example", "u")])),
        );
        let accounts = mk_accounts();
        let providers = node.open().unwrap().with_service_accounts(accounts.clone());
        for _ in 0..2 {
            let found = users_of(&providers, &request_of("r.example/app", &["one", "two"])).await;
            assert_eq!(found.unwrap(), ["u", "u"]);
        }
        let requests = node.requests("acr");
        assert_eq!(requests.len(), 2, "cached by account");
        assert_eq!(requests[0]["serviceAccountToken"], "one-1-registry-0");
        assert_eq!(requests[1]["serviceAccountToken"], "two-2-registry-1");
        assert_eq!(
            requests[0]["serviceAccountAnnotations"],
            json!({"example.com/role": "role-one"})
        );
        assert_eq!(accounts.tokens.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn responses_are_cached_by_token_if_asked_for() {
        let node = Node::new().plugin(
            "acr",
            token_attributes("Token", true),
            &answer(auth(&[("*.example", "u")])),
        );
        let providers = node.open().unwrap().with_service_accounts(mk_accounts());
        for _ in 0..2 {
            let found = users_of(&providers, &request_of("r.example/app", &["one"])).await;
            assert_eq!(found.unwrap(), ["u"]);
        }
        assert_eq!(node.requests("acr").len(), 2, "every token is another one");
    }

    #[tokio::test]
    async fn missing_accounts_and_annotations_are_named() {
        let node = Node::new().plugin(
            "acr",
            token_attributes("ServiceAccount", true),
            &answer(auth(&[("*.example", "u")])),
        );
        let with = node.open().unwrap().with_service_accounts(mk_accounts());
        let without = node.open().unwrap();
        for (providers, accounts, words) in [
            (
                &with,
                &[][..],
                "requires a ServiceAccount (tokenAttributes.requireServiceAccount), and no ImageCache",
            ),
            (
                &with,
                &["plain"],
                "ServiceAccount shop/plain lacks the annotation \"example.com/role\"",
            ),
            (
                &with,
                &["gone"],
                "cannot read the data of ServiceAccount shop/gone: not found",
            ),
            (&without, &["one"], "tokens are not available here"),
        ] {
            let failure = users_of(providers, &request_of("r.example/app", accounts))
                .await
                .unwrap_err();
            assert_eq!(failure.reason, Reason::CredentialsUnavailable);
            assert!(
                failure.message.starts_with("credential provider \"acr\": "),
                "{failure}"
            );
            assert!(failure.message.contains(words), "{failure}");
        }
        assert_eq!(node.requests("acr"), [] as [Value; 0]);
    }

    #[tokio::test]
    async fn a_plugin_that_needs_no_account_runs_without_token() {
        let node = Node::new().plugin(
            "acr",
            token_attributes("ServiceAccount", false),
            &answer(auth(&[("*.example", "u")])),
        );
        let providers = node.open().unwrap();
        let found = users_of(&providers, &request_of("r.example/app", &["one"])).await;
        assert_eq!(found.unwrap(), ["u"]);
        assert_eq!(node.requests("acr")[0].get("serviceAccountToken"), None);
    }

    #[tokio::test]
    async fn a_token_is_returned_as_password_only_if_cached_by_token() {
        for (cache, allowed) in [("ServiceAccount", false), ("Token", true)] {
            let mut response = auth(&[("*.example", "u")]);
            response["auth"]["*.example"]["password"] = json!("one-1-registry-0");
            let node = Node::new().plugin("acr", token_attributes(cache, true), &answer(response));
            let providers = node.open().unwrap().with_service_accounts(mk_accounts());
            let found = providers
                .resolve(&request_of("r.example/app", &["one"]))
                .await
                .usable();
            assert_eq!(found.is_ok(), allowed, "{found:?}");
            if let Err(failure) = found {
                assert!(failure.message.contains("cacheType Token"), "{failure}");
                assert!(!failure.message.contains("one-1-"), "{failure}");
            }
        }
    }

    #[tokio::test]
    async fn the_token_is_not_repeated_from_stderr() {
        let script = "tail -n 1 \"$0.log\" >&2; exit 1";
        let node = Node::new().plugin("acr", token_attributes("Token", true), script);
        let providers = node.open().unwrap().with_service_accounts(mk_accounts());
        let found = providers
            .resolve(&request_of("r.example/app", &["one"]))
            .await
            .usable();
        let failure = found.unwrap_err();
        assert!(failure.message.contains("(token)"), "{failure}");
        assert!(!failure.message.contains("one-1-registry"), "{failure}");
    }
}
