//! Reads from the API server, each within a time limit. What cannot be read has a reason.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use fledged_kube::bounded_client::bounded;
use fledged_kube::request_error::problem;
use http::header::DATE;
use http::{HeaderMap, Request};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::api::{ListParams, PostParams};
use kube::client::Body;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::remote::kubeconfig::{ApiRequest, ClusterError, Connection};

/// Limit for the response to one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Limit for a list of many pages, and for a series of access reviews.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// Objects in one page; kubectl's default.
const PAGE: u32 = 500;

/// Why something is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unread {
    /// The user has no permission.
    #[error("not checked: no permission to {0}")]
    Forbidden(ApiRequest),
    /// As above, also in the namespace in which the operator usually is.
    #[error("not checked: no permission to {0}; --operator-namespace names another namespace")]
    ForbiddenAnywhere(ApiRequest),
    /// The request failed.
    #[error("not checked: cannot {request}: {problem}")]
    Failed {
        /// The request.
        request: ApiRequest,
        /// The message of the API server, or of the client.
        problem: String,
    },
    /// Another check has found that there is nothing to check.
    #[error("not checked: {0}")]
    NothingToCheck(String),
}

impl Unread {
    pub(super) fn nothing(reason: impl Into<String>) -> Self {
        Self::NothingToCheck(reason.into())
    }

    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden(_) | Self::ForbiddenAnywhere(_))
    }
}

/// What was read, or why it was not.
pub(super) type Fact<T> = Result<T, Unread>;

/// The answer of the API server to the first request.
#[derive(Debug, Clone)]
pub(super) struct ServerAnswer {
    /// The version, as `/version` has it.
    pub(super) version: Info,
    /// The API server's time; `None` if its answer has none.
    pub(super) date: Option<Timestamp>,
    /// The time of this machine when the answer arrived.
    pub(super) received: Timestamp,
}

/// Sends the requests of `fledged doctor`.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) client: Client,
    url: String,
}

impl Reader {
    pub(super) fn new(connection: &Connection) -> Self {
        Self {
            client: bounded(&connection.client, REQUEST_LIMIT),
            url: connection.url.clone(),
        }
    }

    /// The version and the time of the API server.
    ///
    /// # Errors
    ///
    /// The API server does not answer, is another server, or refuses the credentials.
    pub(super) async fn server(&self) -> Result<ServerAnswer, ClusterError> {
        let not_kubernetes = |problem: &dyn std::fmt::Display| ClusterError::NotKubernetes {
            url: self.url.clone(),
            problem: format!("its answer to /version is no version: {problem}"),
        };
        let failed = |error: &kube::Error| match error {
            // Every API server has a version.
            kube::Error::Api(status) if status.code == 404 => not_kubernetes(&problem(error)),
            error => {
                let request = request("get", "/version", None, None);
                ClusterError::of(request, &self.url, error)
            }
        };
        let request = Request::get("/version").body(Body::empty());
        let request = request.map_err(|error| failed(&kube::Error::HttpError(error)))?;
        let response = self.client.send(request).await;
        let (parts, body) = response.map_err(|error| failed(&error))?.into_parts();
        let received = Timestamp::now();
        let body = body.collect_bytes().await.map_err(|error| failed(&error))?;
        let version: Info =
            serde_json::from_slice(&body).map_err(|error| not_kubernetes(&error))?;
        if version.git_version.is_empty() {
            return Err(not_kubernetes(&"gitVersion is missing"));
        }
        Ok(ServerAnswer {
            version,
            date: date(&parts.headers),
            received,
        })
    }

    /// Every object of a resource that the parameters select, page by page.
    pub(super) async fn list<K>(
        &self,
        api: &Api<K>,
        what: &ApiRequest,
        mut params: ListParams,
    ) -> Fact<Vec<K>>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        params.limit = Some(PAGE);
        let pages = async {
            let mut items = Vec::new();
            loop {
                let page = api.list(&params).await;
                let page = page.map_err(|error| unread(what.clone(), &error))?;
                items.extend(page.items);
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => return Ok(items),
                }
            }
        };
        within_limit(what, pages).await
    }

    /// One object, if it exists.
    pub(super) async fn find<K>(&self, api: &Api<K>, what: &ApiRequest) -> Fact<Option<K>>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let name = what.name.as_deref().unwrap_or_default();
        let found = api.get_opt(name).await;
        found.map_err(|error| unread(what.clone(), &error))
    }

    /// The objects with any of these labels in the namespace; without one, in all namespaces, or if that is not
    /// permitted, in the usual one.
    pub(super) async fn list_labelled<K>(
        &self,
        resource: &'static str,
        labels: &[&str],
        namespace: Option<&str>,
        usual: &str,
    ) -> Fact<Vec<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let listed = self.list_in(resource, labels, namespace).await;
        match (listed, namespace) {
            (Err(Unread::Forbidden(everywhere)), None) => {
                let listed = self.list_in(resource, labels, Some(usual)).await;
                match listed {
                    // In the usual namespace is nothing: the operator may be in another one.
                    Ok(found) if found.is_empty() => Err(Unread::ForbiddenAnywhere(everywhere)),
                    Err(Unread::Forbidden(_)) => Err(Unread::ForbiddenAnywhere(everywhere)),
                    listed => listed,
                }
            }
            (listed, _) => listed,
        }
    }

    async fn list_in<K>(
        &self,
        resource: &'static str,
        labels: &[&str],
        namespace: Option<&str>,
    ) -> Fact<Vec<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let api: Api<K> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let what = request("list", resource, namespace, None);
        let mut found = Vec::new();
        for labels in labels {
            let params = ListParams::default().labels(labels);
            found.extend(self.list(&api, &what, params).await?);
        }
        Ok(found)
    }

    /// Posts a review, and returns it with its answer.
    pub(super) async fn review<K>(&self, what: &ApiRequest, review: &K) -> Fact<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let reviewed = api.create(&PostParams::default(), review).await;
        reviewed.map_err(|error| unread(what.clone(), &error))
    }
}

/// A request, for messages.
pub(super) fn request(
    verb: &'static str,
    resource: &'static str,
    namespace: Option<&str>,
    name: Option<&str>,
) -> ApiRequest {
    ApiRequest {
        verb,
        resource,
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
    }
}

/// What several requests read, within the limit for all of them.
pub(super) async fn within_limit<T>(
    what: &ApiRequest,
    read: impl Future<Output = Fact<T>>,
) -> Fact<T> {
    let read = tokio::time::timeout(READ_LIMIT, read).await;
    read.unwrap_or_else(|_| {
        Err(Unread::Failed {
            request: what.clone(),
            problem: format!("no answer within {} s", READ_LIMIT.as_secs()),
        })
    })
}

fn unread(request: ApiRequest, error: &kube::Error) -> Unread {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => Unread::Forbidden(request),
        kube::Error::Api(status) if status.code == 404 => {
            let problem = "the API server has no such resource".to_owned();
            Unread::Failed { request, problem }
        }
        error => Unread::Failed {
            request,
            problem: problem(error),
        },
    }
}

/// The header `Date` of an answer (RFC 9110).
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use http::Response;
    use serde_json::Value;

    use super::*;

    /// A reader of an API server that answers each request, with its body, by this function: a code and a body.
    pub(in crate::remote::cluster_doctor) fn mk_reader(
        answer: impl Fn(&str, Value) -> (u16, Value) + Clone + Send + Sync + 'static,
    ) -> Reader {
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = answer.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let (code, body) = answer(parts.uri.path(), body);
                let response = Response::builder().status(code);
                response
                    .body(Body::from(body.to_string().into_bytes()))
                    .map_err(kube::Error::HttpError)
            }
        });
        Reader {
            client: Client::new(service, "default"),
            url: "https://a:6443".to_owned(),
        }
    }

    #[test]
    fn the_date_of_an_answer_is_read() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, text.parse().unwrap());
            date(&headers).map(|at| at.to_string())
        };
        let expected = Some("1994-11-06T08:49:37Z".to_owned());
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), expected);
        assert_eq!(of("soon"), None);
    }

    #[tokio::test]
    async fn a_server_without_a_version_is_none_of_kubernetes() {
        for (code, body, problem) in [
            (404, "{}", "HTTP status 404 Not Found (404)"),
            (200, "\"hello\"", "invalid type: string"),
            (200, "{}", "gitVersion is missing"),
        ] {
            let body: Value = serde_json::from_str(body).unwrap_or_default();
            let mut reader = mk_reader(move |_, _| (code, body.clone()));
            reader.client = bounded(&reader.client, REQUEST_LIMIT);
            let error = reader.server().await.unwrap_err().to_string();
            let expected = "https://a:6443 does not answer as a Kubernetes API server: its answer to /version is no version: ";
            let found = error
                .strip_prefix(expected)
                .unwrap_or_else(|| panic!("{error}"));
            assert!(found.starts_with(problem), "{error}");
        }
    }

    #[test]
    fn what_is_not_read_has_a_plain_reason() {
        let what = request("list", "pods", None, None);
        let status = |code: u16| {
            let mut status = kube::core::Status::failure("no", "");
            status.code = code;
            unread(what.clone(), &kube::Error::Api(status.boxed()))
        };
        let text = "not checked: no permission to list pods in all namespaces";
        assert_eq!(status(403).to_string(), text);
        assert!(status(403).is_forbidden());
        let text = "not checked: cannot list pods in all namespaces: no (500)";
        assert_eq!(status(500).to_string(), text);
    }

    #[tokio::test]
    async fn the_usual_namespace_is_read_if_all_are_forbidden() {
        use k8s_openapi::api::core::v1::Pod;
        let reader = |items: Value| {
            mk_reader(move |path, _| match path {
                "/api/v1/namespaces/kube-fledged/pods" => {
                    let list = serde_json::json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {},
                        "items": items });
                    (200, list)
                }
                _ => (
                    403,
                    serde_json::json!({ "kind": "Status", "code": 403, "message": "no" }),
                ),
            })
        };
        let list = async |reader: Reader, namespace| {
            let listed = reader.list_labelled::<Pod>("pods", &["a=b"], namespace, "kube-fledged");
            listed.await
        };
        let one = serde_json::json!([{ "metadata": { "name": "agent" } }]);
        let found = list(reader(one.clone()), None).await;
        assert_eq!(found.map(|pods| pods.len()), Ok(1));
        // Nothing found there is no proof that there is nothing.
        let what = request("list", "pods", None, None);
        let found = list(reader(serde_json::json!([])), None).await;
        assert_eq!(found, Err(Unread::ForbiddenAnywhere(what)));
        let what = request("list", "pods", Some("other"), None);
        let found = list(reader(one), Some("other")).await;
        assert_eq!(found, Err(Unread::Forbidden(what)));
    }
}
