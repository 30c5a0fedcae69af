//! The loop that finishes what writes leave to be done.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::definitions::Definitions;
use super::{namespaces, owners};
use crate::api::Api;
use crate::store::{Aftermath, Key};

/// The table of CRDs.
pub(super) const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Works until the store is gone.
pub(crate) async fn collect(api: Arc<Api>, mut aftermath: mpsc::UnboundedReceiver<Aftermath>) {
    let mut definitions = Definitions::default();
    while let Some(left) = aftermath.recv().await {
        handle(&api, &mut definitions, left);
        // A long queue must not keep requests from being answered.
        tokio::task::yield_now().await;
    }
}

fn handle(api: &Api, definitions: &mut Definitions, left: Aftermath) {
    match left {
        Aftermath::Owned(at) => owners::check(api, &at),
        Aftermath::Defined(name) => definitions.define(api, &name),
        Aftermath::Deleting(at) => match &*at.table {
            CRDS => definitions.finish(api, &at.key.name),
            "namespaces" => {
                namespaces::finish(api, &at.key.name);
                owners::finish(api, &at);
            }
            _ => owners::finish(api, &at),
        },
        Aftermath::Gone {
            table,
            key,
            uid,
            owners,
        } => {
            for dependent in api.store.dependents(&uid) {
                super::owners::check(api, &dependent);
            }
            for owner in owners {
                if let Some((at, _)) = api.store.by_uid(&owner) {
                    super::owners::finish(api, &at);
                }
            }
            if &*table == CRDS {
                definitions.forget(api, &key.name);
                return;
            }
            let is_deleting = |table: &str, name: &str| {
                api.store
                    .get(table, &Key::new("", name))
                    .is_some_and(|object| object.is_deleting())
            };
            if !key.namespace.is_empty() && is_deleting("namespaces", &key.namespace) {
                namespaces::finish(api, &key.namespace);
            }
            // A table of custom resources has the name of its CRD.
            if is_deleting(CRDS, &table) {
                definitions.finish(api, &table);
            }
        }
    }
}
