//! The API server of the agent tests.

use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use fledged_apiserver::Service;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};

/// Limit of [`eventually`], in paused time.
const LIMIT: Duration = Duration::from_secs(600);

/// An API server inside the process, with the custom resources.
pub(crate) struct Server {
    pub client: Client,
    service: Service,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let service = fledged_apiserver::Server::builder().service().unwrap();
        let client = service.client();
        define(&client).await;
        Self { client, service }
    }
}

impl Deref for Server {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

/// Installs the custom resources.
async fn define(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in fledged_kube::crd::definitions() {
        let name = definition.name_any();
        let parameters = PatchParams::apply("tests").force();
        let patch = Patch::Apply(&definition);
        definitions.patch(&name, &parameters, &patch).await.unwrap();
    }
    let nodes: Api<fledged_kube::crd::NodeImageCache> = Api::all(client.clone());
    eventually("the definitions are served", || async {
        nodes.list(&Default::default()).await.ok()
    })
    .await;
}

/// Polls `question` until it returns a value.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut question: impl FnMut() -> F,
) -> T {
    let asked = async {
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let answer = tokio::time::timeout(LIMIT, asked).await;
    answer.unwrap_or_else(|_| panic!("not within time: {what}"))
}
