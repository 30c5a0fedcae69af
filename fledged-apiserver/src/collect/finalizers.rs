//! Changing what holds objects back.

use serde_json::Value;

use crate::api::Api;
use crate::api::is_done;
use crate::store::ObjectRef;

/// Changes an object until nobody interferes, and removes it if nothing holds it back any more.
pub(super) fn change(api: &Api, at: &ObjectRef, edit: impl Fn(&mut Value)) {
    let Some(resource) = api.catalogue.of_table(&at.table) else {
        return;
    };
    while let Some(live) = api.store.get(&at.table, &at.key) {
        let mut value = live.value.clone();
        edit(&mut value);
        let written = match (value == live.value, is_done(&value, &resource)) {
            (_, true) => api.store.remove(at, &live, value),
            (true, false) => return,
            (false, false) => api.store.put(at, Some(&live), value),
        };
        if written.is_ok() {
            return;
        }
    }
}

/// Takes a text out of a list in `holder` (`metadata` or `spec`).
pub(super) fn drop_finalizer(value: &mut Value, holder: &str, name: &str) {
    let Some(holder) = value.get_mut(holder).and_then(Value::as_object_mut) else {
        return;
    };
    let Some(list) = holder.get_mut("finalizers").and_then(Value::as_array_mut) else {
        return;
    };
    list.retain(|finalizer| finalizer != name);
    if list.is_empty() {
        holder.remove("finalizers");
    }
}
