//! Command lines about a cache.

use fledged_core::model::CacheId;

/// A command about a cache; its namespace is named where it is not the kubeconfig's.
pub(super) fn about<'a>(command: &'a str, id: &'a CacheId) -> Vec<&'a str> {
    let mut args = vec![command, &id.name];
    if id.namespace != "default" {
        args.extend(["-n", &id.namespace]);
    }
    args
}
