//! The API server.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};

/// Longest wait for anything that is to happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Names a kubeconfig: the tests then run on that cluster and not on a server of their own.
const KUBECONFIG: &str = "TEST_KUBECONFIG";

/// A name that no earlier run used on the same cluster.
pub(crate) fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// An API server with the custom resources.
pub(crate) struct Server {
    pub client: Client,
    embedded: Option<fledged_apiserver::Server>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let (client, embedded) = match std::env::var_os(KUBECONFIG) {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).unwrap();
                let options = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                (Client::try_from(config.unwrap()).unwrap(), None)
            }
            None => {
                let server = fledged_apiserver::Server::builder().start().await.unwrap();
                (server.client().unwrap(), Some(server))
            }
        };
        define(&client).await;
        Self { client, embedded }
    }

    /// The server itself, for what can't be asked of a cluster; `None` on one.
    pub(crate) fn embedded(&self) -> Option<&fledged_apiserver::Server> {
        self.embedded.as_ref()
    }
}

/// Brings the custom resources in.
async fn define(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in fledged_operator::crd::definitions() {
        let name = definition.name_any();
        let parameters = PatchParams::apply("tests").force();
        let patch = Patch::Apply(&definition);
        definitions.patch(&name, &parameters, &patch).await.unwrap();
    }
    let nodes: Api<fledged_operator::crd::NodeImageCache> = Api::all(client.clone());
    eventually("the definitions are served", || async {
        nodes.list(&Default::default()).await.ok()
    })
    .await;
}

/// What the question gives once it gives something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut question: impl FnMut() -> F,
) -> T {
    let asked = async {
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    answer.unwrap_or_else(|_| panic!("not within time: {what}"))
}
