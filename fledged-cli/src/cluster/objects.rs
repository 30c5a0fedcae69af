//! Reading ImageCaches, page by page.

use std::fmt::Debug;

use fledged_operator::crd::ReadCache;
use kube::Api;
use kube::api::ListParams;
use serde::de::DeserializeOwned;

use super::connect::Connection;
use super::error::{ClusterError, Request};

/// Objects of one answer; as many as kubectl asks for.
const PAGE: u32 = 500;

const CACHES: &str = "imagecaches.kubefledged.io";

impl Connection {
    /// ImageCaches of the namespace.
    pub(super) fn caches(&self) -> Api<ReadCache> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// ImageCaches of all namespaces.
    pub(super) fn all_caches(&self) -> Api<ReadCache> {
        Api::all(self.client.clone())
    }

    /// A request about ImageCaches of the namespace.
    pub(super) fn about(&self, verb: &'static str, name: Option<&str>) -> Request {
        Request {
            verb,
            resource: CACHES,
            namespace: Some(self.namespace.clone()),
            name: name.map(str::to_owned),
        }
    }

    /// What a failed request means.
    pub(super) fn failed(&self, request: Request, error: &kube::Error) -> ClusterError {
        ClusterError::of(request, &self.url, error)
    }

    /// One ImageCache.
    pub(crate) async fn cache(&self, name: &str) -> Result<ReadCache, ClusterError> {
        let found = self.caches().get(name).await;
        match found.map_err(|error| self.failed(self.about("get", Some(name)), &error)) {
            Err(ClusterError::NotFound {
                namespace, name, ..
            }) => {
                let hint = self.elsewhere(&name).await;
                Err(ClusterError::NotFound {
                    namespace,
                    name,
                    hint,
                })
            }
            found => found,
        }
    }

    /// Where else an ImageCache of that name is; nothing where that may not be asked.
    async fn elsewhere(&self, name: &str) -> String {
        let params = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.all_caches().list(&params).await;
        let found = found.map(|list| list.items).unwrap_or_default();
        let places = found.iter().map(|cache| cache.id().namespace);
        let places: Vec<String> = places.map(|namespace| format!("-n {namespace}")).collect();
        match places.is_empty() {
            true => "; `get -A` lists all there are".to_owned(),
            false => format!("; there is one with {}", places.join(" and ")),
        }
    }

    /// Every ImageCache, of the namespace or of all.
    pub(crate) async fn list_caches(&self, all: bool) -> Result<Vec<ReadCache>, ClusterError> {
        let api = if all {
            self.all_caches()
        } else {
            self.caches()
        };
        let namespace = (!all).then(|| self.namespace.clone());
        self.list(api, CACHES, namespace).await
    }

    /// Every object of a kind.
    pub(super) async fn list<K>(
        &self,
        api: Api<K>,
        resource: &'static str,
        namespace: Option<String>,
    ) -> Result<Vec<K>, ClusterError>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let request = Request {
            verb: "list",
            resource,
            namespace,
            name: None,
        };
        let mut params = ListParams::default().limit(PAGE);
        let mut items = Vec::new();
        loop {
            let page = api.list(&params).await;
            let page = page.map_err(|error| self.failed(request.clone(), &error))?;
            items.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(items),
            }
        }
    }
}
