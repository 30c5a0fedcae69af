//! Registry credentials from Secrets and ServiceAccounts.
use crate::agent_support::{Fault, Line, Server, image};
use fledged_core::error::{Failure, Reason};
use fledged_core::model::ObjectName;
use fledged_core::port::{Credentials, CredentialsRequest, RegistryAuth};
use fledged_cri::credentials::ServiceAccounts;
use fledged_operator::agent::{KubeCredentials, KubeServiceAccounts};
use http::Method;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::Api;
use kube::api::{Patch, PatchParams};
use std::time::Duration;

use serde_json::{Value, json};

const CONFIG: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
const CFG: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");

/// A namespace with credentials in it.
struct Store {
    namespace: String,
    server: Server,
    line: Line,
    credentials: KubeCredentials,
}

fn entry(user: &str) -> Value {
    json!({"username": user, "password": "s3cret"})
}

impl Store {
    async fn new(namespace: &str) -> Self {
        let server = Server::start().await;
        let namespaces: Api<Namespace> = Api::all(server.client.clone());
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace}});
        apply(&namespaces, namespace, object).await;
        let line = Line::new(server.client.clone());
        Self {
            namespace: namespace.to_owned(),
            credentials: KubeCredentials::new(line.client()),
            server,
            line,
        }
    }

    async fn put(&self, name: &str, (kind, key): (&str, &str), content: &str) {
        let secrets: Api<Secret> = Api::namespaced(self.server.client.clone(), &self.namespace);
        let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "type": kind, "stringData": {key: content}});
        apply(&secrets, name, object).await;
    }

    /// Writes a secret of type `kubernetes.io/dockerconfigjson`.
    async fn put_auths(&self, name: &str, auths: Value) {
        self.put(name, CONFIG, &json!({"auths": auths}).to_string())
            .await;
    }

    async fn put_account(&self, name: &str, secrets: &[&str]) {
        let accounts: Api<ServiceAccount> =
            Api::namespaced(self.server.client.clone(), &self.namespace);
        let secrets: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name}, "imagePullSecrets": secrets});
        apply(&accounts, name, object).await;
    }

    fn request(&self, name: &str, secrets: &[&str], accounts: &[&str]) -> CredentialsRequest {
        let names = |names: &[&str]| {
            let named = names
                .iter()
                .map(|name| ObjectName::new(self.namespace.clone(), *name));
            named.collect::<Vec<_>>()
        };
        CredentialsRequest::new(image(name))
            .with_pull_secrets(names(secrets))
            .with_service_accounts(names(accounts))
    }

    /// Returns the user names, in the order in which pulls try them.
    async fn users(
        &self,
        image: &str,
        secrets: &[&str],
        accounts: &[&str],
    ) -> Result<Vec<String>, Failure> {
        let request = self.request(image, secrets, accounts);
        let auths = self.credentials.resolve(&request).await.usable();
        if let Err(failure) = &auths {
            assert!(!failure.message.contains("s3cret"), "{failure}");
        }
        let user = |auth| match auth {
            RegistryAuth::Basic { username, .. } => username,
            other => panic!("{other:?}"),
        };
        Ok(auths?.into_iter().map(user).collect())
    }
}

async fn apply<K>(api: &Api<K>, name: &str, object: Value)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let parameters = PatchParams::apply("tests").force();
    api.patch(name, &parameters, &Patch::Apply(&object))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn all_matching_entries_are_used_most_specific_first() {
    let store = Store::new("creds-order").await;
    store
        .put_auths(
            "a",
            json!({"r.example": entry("a"), "other.example": entry("o")}),
        )
        .await;
    store
        .put_auths(
            "b",
            json!({"r.example/team": entry("team"), "r.example": entry("b")}),
        )
        .await;
    store
        .put(
            "old",
            CFG,
            &json!({"https://r.example": entry("old")}).to_string(),
        )
        .await;
    store.put_auths("c", json!({"r.example": entry("c")})).await;
    store.put_account("builder", &["a", "c"]).await;
    let secrets = ["b", "old", "a"];
    let users = store
        .users("r.example/team/app:1", &secrets, &["builder"])
        .await
        .unwrap();
    assert_eq!(users, ["team", "b", "old", "a", "c"]);
    let users = store.users("r.example/app:1", &["a"], &[]).await.unwrap();
    assert_eq!(users, ["a"]);
    let users = store
        .users("quay.io/app:1", &secrets, &["builder"])
        .await
        .unwrap();
    assert_eq!(users, [""; 0], "anonymous");
    let users = store.users("r.example/app:1", &[], &[]).await.unwrap();
    assert_eq!(users, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn namespaces_do_not_hide_credentials_of_each_other() {
    let store = Store::new("creds-a").await;
    let auths = json!({"r.example/team/app": entry("a")});
    store.put_auths("key", auths).await;
    let namespaces: Api<Namespace> = Api::all(store.server.client.clone());
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "creds-b"}});
    apply(&namespaces, "creds-b", object).await;
    let secrets: Api<Secret> = Api::namespaced(store.server.client.clone(), "creds-b");
    let auths = json!({"auths": {"r.example": entry("b")}}).to_string();
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"},
        "type": CONFIG.0, "stringData": {CONFIG.1: auths}});
    apply(&secrets, "key", object).await;
    let names = ["creds-a", "creds-b"].map(|namespace| ObjectName::new(namespace, "key"));
    let request = CredentialsRequest::new(image("r.example/team/app:1")).with_pull_secrets(names);
    let auths = store.credentials.resolve(&request).await.auths;
    let users = auths.iter().map(|auth| match auth {
        RegistryAuth::Basic { username, .. } => username.as_str(),
        other => panic!("{other:?}"),
    });
    assert_eq!(users.collect::<Vec<_>>(), ["a", "b"]);
}

/// Objects that were read are shared for two seconds.
async fn shared_reads_expire() {
    tokio::time::advance(Duration::from_secs(6)).await;
}

#[tokio::test(start_paused = true)]
async fn missing_secrets_fail_only_if_nothing_else_matches() {
    let store = Store::new("creds-missing").await;
    store
        .put_auths("there", json!({"r.example": entry("u")}))
        .await;
    let secrets = ["missing", "there"];
    let users = store
        .users("r.example/app:1", &secrets, &["unknown"])
        .await
        .unwrap();
    assert_eq!(users, ["u"]);
    let failure = store
        .users("quay.io/app:1", &secrets, &["unknown"])
        .await
        .unwrap_err();
    assert_eq!(failure.reason, Reason::CredentialsUnavailable);
    assert_eq!(
        failure.message,
        format!(
            "service account {0}/unknown: not found; pull secret {0}/missing: not found",
            store.namespace
        )
    );
    // Those that were not needed are a warning, as are those of a ServiceAccount.
    store.put_account("builder", &["gone"]).await;
    let request = store.request("r.example/app:1", &["there"], &["builder"]);
    let found = store.credentials.resolve(&request).await;
    let warning = format!(
        "pull secret {0}/gone of service account {0}/builder: not found",
        store.namespace
    );
    assert_eq!((found.auths.len(), found.warning()), (1, Some(warning)));
    store
        .put_auths("missing", json!({"quay.io": entry("later")}))
        .await;
    // A missing Secret is asked for again at once.
    let users = store.users("quay.io/app:1", &secrets, &[]).await.unwrap();
    assert_eq!(users, ["later"]);
}

#[tokio::test(start_paused = true)]
async fn malformed_secrets_are_named_without_their_content() {
    let store = Store::new("creds-malformed").await;
    let bad_entry =
        json!({"auths": {"r.example": {"auth": "s3cret!"}, "good.example": entry("g")}});
    store.put("entry", CONFIG, &bad_entry.to_string()).await;
    store
        .put("opaque", ("Opaque", ".dockerconfigjson"), "{\"auths\":{}}")
        .await;
    for (secret, words) in [
        ("entry", "entry for \"r.example\" is malformed"),
        (
            "opaque",
            "type \"Opaque\", which holds no registry credentials",
        ),
    ] {
        let failure = store
            .users("r.example/app:1", &[secret], &[])
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::CredentialsUnavailable);
        let start = format!("pull secret {}/{secret}: ", store.namespace);
        assert!(failure.message.starts_with(&start), "{failure}");
        assert!(failure.message.contains(words), "{failure}");
    }
    // A malformed entry for another registry does not affect this image.
    let users = store
        .users("good.example/app:1", &["entry"], &[])
        .await
        .unwrap();
    assert_eq!(users, ["g"]);
    let users = store.users("quay.io/app:1", &["entry"], &[]).await.unwrap();
    assert_eq!(users, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn invalid_names_are_not_requested() {
    let store = Store::new("creds-names").await;
    for name in ["../configmaps/x", "a/b", "key?watch=true", "", "Key", ".."] {
        let failure = store.users("r.example/app:1", &[name], &[]).await;
        match name {
            // As in a pod, where a template may leave an empty name.
            "" => assert_eq!(failure.unwrap(), [""; 0]),
            _ => assert!(
                failure
                    .unwrap_err()
                    .message
                    .contains("not a valid object name")
            ),
        }
    }
    assert_eq!(store.line.count(&Method::GET, ""), 0);
}

#[tokio::test(start_paused = true)]
async fn malformed_secrets_are_not_shown() {
    let store = Store::new("creds-odd").await;
    for (object, words) in [
        (json!({"type": CONFIG.0}), "it has no \".dockerconfigjson\""),
        (
            json!({"type": CONFIG.0, "data": {CONFIG.1: "s3cret!"}}),
            "not a valid object",
        ),
        (
            json!({"type": CONFIG.0, "data": {CONFIG.1: "czNjcmV0"}}),
            "not valid JSON (line 1",
        ),
        (json!({"type": {"s3cret": 1}}), "not a valid object"),
    ] {
        let mut answer = object;
        answer["code"] = json!(200);
        store
            .line
            .fail(move |_, _| Some(Fault::Answers(answer.clone())));
        shared_reads_expire().await;
        let failure = store
            .users("r.example/app:1", &["odd"], &[])
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::CredentialsUnavailable);
        assert!(
            failure.message.starts_with("pull secret creds-odd/"),
            "{failure}"
        );
        assert!(failure.message.contains(words), "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn forbidden_is_reported_and_unavailable_is_retried() {
    let store = Store::new("creds-forbidden").await;
    store
        .put_auths("key", json!({"r.example": entry("u")}))
        .await;
    store
        .put_auths("open", json!({"r.example": entry("open")}))
        .await;
    let text = "secrets \"key\" is forbidden: User \"agent\" cannot get resource";
    let of_key = |path: &str| path.ends_with("/secrets/key");
    store
        .line
        .fail(move |_, path| of_key(path).then(|| Fault::status(403, "Forbidden", text)));
    let failure = store
        .users("r.example/app:1", &["key"], &[])
        .await
        .unwrap_err();
    assert_eq!(failure.reason, Reason::CredentialsUnavailable);
    assert!(failure.message.contains("the agent may not read it"));
    shared_reads_expire().await;
    store
        .line
        .fail(move |_, path| of_key(path).then_some(Fault::Down));
    let failure = store
        .users("r.example/app:1", &["key"], &[])
        .await
        .unwrap_err();
    assert!(failure.class().is_transient(), "{}", failure.reason);
    assert!(failure.message.contains("cannot be read: "), "{failure}");
    let users = store
        .users("r.example/app:1", &["key", "open"], &[])
        .await
        .unwrap();
    assert_eq!(users, ["open"]);
    store
        .line
        .fail(move |_, path| of_key(path).then(|| Fault::busy(9)));
    let failure = store
        .users("r.example/app:1", &["key"], &[])
        .await
        .unwrap_err();
    assert_eq!(failure.retry_after.map(|delay| delay.as_secs()), Some(9));
    store.line.mend();
    let users = store.users("r.example/app:1", &["key"], &[]).await.unwrap();
    assert_eq!(users, ["u"]);
}

#[tokio::test(start_paused = true)]
async fn reads_share_a_request_for_some_seconds() {
    let store = Store::new("creds-shared").await;
    store
        .put_auths("key", json!({"r.example": entry("old")}))
        .await;
    let request = store.request("r.example/app:1", &["key"], &[]);
    let resolve = || store.credentials.resolve(&request);
    let (one, two, three) = tokio::join!(resolve(), resolve(), resolve());
    assert!([one, two, three].iter().all(|found| found.auths.len() == 1));
    let reads = || store.line.count(&Method::GET, "/secrets/key");
    assert_eq!(reads(), 1);
    store
        .put_auths("key", json!({"r.example": entry("new")}))
        .await;
    let users = store.users("r.example/app:1", &["key"], &[]).await.unwrap();
    assert_eq!((users, reads()), (vec!["old".to_owned()], 1));
    shared_reads_expire().await;
    let users = store.users("r.example/app:1", &["key"], &[]).await.unwrap();
    assert_eq!((users, reads()), (vec!["new".to_owned()], 2));
    assert_eq!(
        store.line.count(&Method::GET, "/secrets"),
        0,
        "never listed"
    );
}

/// Answers token requests with numbered tokens that live for an hour.
fn grant_tokens(store: &Store) {
    let granted = std::sync::atomic::AtomicUsize::new(0);
    store.line.fail(move |method, path| {
        let is_request =
            *method == Method::POST && path.ends_with("/serviceaccounts/builder/token");
        is_request.then(|| {
            let number = granted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Fault::Answers(json!({"code": 201, "spec": {"expirationSeconds": 3600},
                "status": {"token": format!("token-{number}")}}))
        })
    });
}

#[tokio::test(start_paused = true)]
async fn a_service_account_token_is_used_for_most_of_its_life() {
    use secrecy::ExposeSecret as _;
    let store = Store::new("creds-token").await;
    store.put_account("builder", &[]).await;
    grant_tokens(&store);
    let accounts = KubeServiceAccounts::new(store.line.client());
    let name = ObjectName::new(store.namespace.clone(), "builder");
    let facts = accounts.facts(&name).await.unwrap();
    assert!(!facts.uid.is_empty());
    let token = async |audience: &str| {
        let token = accounts.token(&name, &facts.uid, audience).await.unwrap();
        token.expose_secret().to_owned()
    };
    assert_eq!(token("a").await, "token-0");
    assert_eq!(token("b").await, "token-1");
    tokio::time::advance(Duration::from_secs(2879)).await;
    assert_eq!(token("a").await, "token-0");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(token("a").await, "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_names_the_chart_value() {
    let store = Store::new("creds-token-refused").await;
    let accounts = KubeServiceAccounts::new(store.line.client());
    let name = ObjectName::new(store.namespace.clone(), "builder");
    let fails = async |fault: Fault| {
        store
            .line
            .fail(move |_, path| path.ends_with("/token").then(|| fault.clone()));
        accounts.token(&name, "uid", "a").await.unwrap_err()
    };
    let failure = fails(Fault::status(
        403,
        "Forbidden",
        "User \"agent\" cannot create",
    ))
    .await;
    assert_eq!(failure.reason, Reason::CredentialsUnavailable);
    assert!(
        failure
            .message
            .contains("agent.credentialProviders.serviceAccountTokens")
    );
    assert!(!failure.message.contains("User"), "{failure}");
    let failure = fails(Fault::Answers(json!({"code": 201, "status": "s3cret"}))).await;
    assert!(!failure.message.contains("s3cret"), "{failure}");
    let failure = fails(Fault::busy(9)).await;
    assert!(failure.class().is_transient());
    assert_eq!(failure.retry_after, Some(Duration::from_secs(9)));
    let odd = ObjectName::new(store.namespace.clone(), "../builder");
    let failure = accounts.token(&odd, "uid", "a").await.unwrap_err();
    assert!(
        failure.message.contains("not a valid object name"),
        "{failure}"
    );
}
