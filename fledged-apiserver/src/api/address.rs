//! Addresses of Services.

use serde_json::{Map, Value, json};

/// Gives a new Service an address of its own, as far as its uid is its own, unless it wants none.
pub(super) fn give_address(service: &mut Map<String, Value>) {
    let uid = service
        .get("metadata")
        .and_then(|metadata| metadata.get("uid"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if spec.get("type") == Some(&Value::from("ExternalName")) {
        return;
    }
    let given = spec.get("clusterIP").and_then(Value::as_str);
    let address = match given.filter(|address| !address.is_empty()) {
        Some(address) => address.to_owned(),
        None => {
            let start: String = uid
                .chars()
                .filter(char::is_ascii_hexdigit)
                .take(4)
                .collect();
            let [high, low] = u16::from_str_radix(&start, 16)
                .unwrap_or_default()
                .to_be_bytes();
            format!("10.96.{high}.{low}")
        }
    };
    spec.insert("clusterIPs".into(), json!([address]));
    spec.insert("clusterIP".into(), address.into());
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy")
        .or_insert_with(|| "SingleStack".into());
}

/// Leaves the address of a Service as it is where a change does not name one.
pub(super) fn keep_address(new: &mut Map<String, Value>, old: &Value) {
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let missing = match spec.get(field) {
            None | Some(Value::Null) => true,
            Some(value) => value == "",
        };
        if let (true, Some(was)) = (missing, old.get("spec").and_then(|spec| spec.get(field))) {
            spec.insert(field.to_owned(), was.clone());
        }
    }
}
