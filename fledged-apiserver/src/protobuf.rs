//! The protobuf that `kubectl create` and helm send for objects that they generate:
//! Namespaces, Secrets, ConfigMaps, ServiceAccounts and DeleteOptions. Other kinds are refused with 415.

use k8s_openapi::ByteString;
use serde_json::{Map, Value};

use Field::{Bytes, BytesMap, Flag, Kept, Message as Part, Number, Skipped, Text, TextMap};

/// The prefix of every object.
const MAGIC: &[u8] = b"k8s\0";

/// Reads an object.
///
/// # Errors
///
/// Fails on malformed input and on every unknown field; nothing is dropped.
pub(crate) fn read(body: &[u8]) -> Result<Value, String> {
    let body = body
        .strip_prefix(MAGIC)
        .ok_or("no protobuf of Kubernetes")?;
    let envelope = object(body, &ENVELOPE)?;
    let of_type = |field: &str| {
        envelope
            .get("typeMeta")
            .and_then(|t| t.get(field))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (version, kind) = (of_type("apiVersion"), of_type("kind"));
    let known = message(version, kind)
        .ok_or_else(|| format!("no protobuf of {kind} in {version} is known"))?;
    let raw = envelope.get("raw").cloned().unwrap_or_default();
    let raw: ByteString = serde_json::from_value(raw).map_err(|error| error.to_string())?;
    let mut found = object(&raw.0, known)?;
    found.insert("apiVersion".into(), version.into());
    found.insert("kind".into(), kind.into());
    Ok(Value::Object(found))
}

fn bytes_value(bytes: &[u8]) -> Result<Value, String> {
    serde_json::to_value(ByteString(bytes.to_vec())).map_err(|error| error.to_string())
}

fn text(bytes: &[u8]) -> Result<Value, String> {
    String::from_utf8(bytes.to_vec())
        .map(Value::String)
        .map_err(|error| error.to_string())
}

/// A field as it is encoded.
enum Wire<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

fn object(bytes: &[u8], message: &Message) -> Result<Map<String, Value>, String> {
    let (mut rest, mut fields) = (bytes, Map::new());
    while !rest.is_empty() {
        let (number, wire) = field(&mut rest)?;
        let row = message.0.iter().find(|row| row.0 == number);
        let (_, name, _, many) = row.ok_or_else(|| format!("field {number} is not known"))?;
        let Some(value) = row.map(|row| value(row, &wire)).transpose()?.flatten() else {
            continue;
        };
        match (many, fields.get_mut(*name), value) {
            (true, Some(Value::Array(items)), value) => items.push(value),
            (true, _, value) => {
                fields.insert((*name).to_owned(), Value::Array(vec![value]));
            }
            (false, Some(Value::Object(entries)), Value::Object(more)) => entries.extend(more),
            (false, _, value) => {
                fields.insert((*name).to_owned(), value);
            }
        }
    }
    Ok(fields)
}

/// The value of a field; none for an empty one that means the same as an absent one.
fn value((_, name, holds, many): &FieldRow, wire: &Wire<'_>) -> Result<Option<Value>, String> {
    let found = match (holds, wire) {
        (Field::Skipped, _) => return Ok(None),
        (Field::Text, Wire::Bytes(bytes)) => text(bytes)?,
        (Field::Bytes, Wire::Bytes(bytes)) => bytes_value(bytes)?,
        (Field::Message(message), Wire::Bytes(bytes)) => Value::Object(object(bytes, message)?),
        (Field::TextMap | Field::BytesMap, Wire::Bytes(bytes)) => {
            entry(bytes, matches!(holds, Field::BytesMap))?
        }
        (Field::Number, Wire::Number(0)) | (Field::Flag, Wire::Number(0)) => return Ok(None),
        (Field::Flag, Wire::Number(_)) => Value::Bool(true),
        (Field::Number | Field::Kept, Wire::Number(number)) => number.cast_signed().into(),
        _ => return Err(format!("field {name} is of another type")),
    };
    let is_empty = match &found {
        Value::String(text) => text.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    Ok((*many || !is_empty).then_some(found))
}

/// An entry of a map.
fn entry(bytes: &[u8], is_bytes: bool) -> Result<Value, String> {
    let (mut rest, mut key, mut value) = (bytes, String::new(), &[][..]);
    while !rest.is_empty() {
        match field(&mut rest)? {
            (1, Wire::Bytes(bytes)) => key = String::from_utf8_lossy(bytes).into_owned(),
            (2, Wire::Bytes(bytes)) => value = bytes,
            (number, _) => return Err(format!("field {number} of an entry is not known")),
        }
    }
    let value = if is_bytes {
        bytes_value(value)?
    } else {
        text(value)?
    };
    Ok(Value::Object(Map::from_iter([(key, value)])))
}

fn field<'b>(rest: &mut &'b [u8]) -> Result<(u64, Wire<'b>), String> {
    let tag = varint(rest)?;
    let wire = match tag & 7 {
        0 => Wire::Number(varint(rest)?),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|error| error.to_string())?;
            let (bytes, after) = rest.split_at_checked(length).ok_or("a field is cut off")?;
            *rest = after;
            Wire::Bytes(bytes)
        }
        other => return Err(format!("wire type {other} is not known")),
    };
    Ok((tag >> 3, wire))
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0_u64;
    // 64 bits need ten groups of seven.
    for shift in (0..70).step_by(7) {
        let (byte, after) = rest.split_first().ok_or("a number is cut off")?;
        *rest = after;
        number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is too long".to_owned())
}

/// The type of a field.
#[derive(Debug, Clone, Copy)]
enum Field {
    Text,
    Bytes,
    /// A number of which zero means the same as absence.
    Number,
    Flag,
    /// A number of which zero is a value.
    Kept,
    Message(&'static Message),
    TextMap,
    BytesMap,
    /// A field that the server sets, or ignores in new objects.
    Skipped,
}

/// A field of a message: number, name, type, and whether it is repeated.
type FieldRow = (u64, &'static str, Field, bool);

/// A message.
#[derive(Debug)]
struct Message(&'static [FieldRow]);

static OBJECT_META: Message = Message(&[
    (1, "name", Text, false),
    (2, "generateName", Text, false),
    (3, "namespace", Text, false),
    (4, "selfLink", Text, false),
    (5, "uid", Text, false),
    (6, "resourceVersion", Text, false),
    (7, "generation", Number, false),
    (8, "creationTimestamp", Skipped, false),
    (11, "labels", TextMap, false),
    (12, "annotations", TextMap, false),
    (14, "finalizers", Text, true),
]);

static NAMESPACE: Message = Message(&[
    (1, "metadata", Part(&OBJECT_META), false),
    (2, "spec", Skipped, false),
    (3, "status", Skipped, false),
]);

static SECRET: Message = Message(&[
    (1, "metadata", Part(&OBJECT_META), false),
    (2, "data", BytesMap, false),
    (3, "type", Text, false),
    (4, "stringData", TextMap, false),
    (5, "immutable", Flag, false),
]);

static CONFIG_MAP: Message = Message(&[
    (1, "metadata", Part(&OBJECT_META), false),
    (2, "data", TextMap, false),
    (3, "binaryData", BytesMap, false),
    (4, "immutable", Flag, false),
]);

static SERVICE_ACCOUNT: Message = Message(&[(1, "metadata", Part(&OBJECT_META), false)]);

static PRECONDITIONS: Message =
    Message(&[(1, "uid", Text, false), (2, "resourceVersion", Text, false)]);

static DELETE_OPTIONS: Message = Message(&[
    (1, "gracePeriodSeconds", Kept, false),
    (2, "preconditions", Part(&PRECONDITIONS), false),
    (4, "propagationPolicy", Text, false),
    (5, "dryRun", Text, true),
]);

static TYPE_META: Message = Message(&[(1, "apiVersion", Text, false), (2, "kind", Text, false)]);

/// The envelope of every object.
static ENVELOPE: Message = Message(&[
    (1, "typeMeta", Part(&TYPE_META), false),
    (2, "raw", Bytes, false),
    (3, "contentEncoding", Text, false),
    (4, "contentType", Text, false),
]);

/// The message of a kind.
fn message(version: &str, kind: &str) -> Option<&'static Message> {
    match (version, kind) {
        // It has the version of the deleted object.
        (_, "DeleteOptions") => Some(&DELETE_OPTIONS),
        ("v1", "Namespace") => Some(&NAMESPACE),
        ("v1", "Secret") => Some(&SECRET),
        ("v1", "ConfigMap") => Some(&CONFIG_MAP),
        ("v1", "ServiceAccount") => Some(&SERVICE_ACCOUNT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn part(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut part = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        part.extend_from_slice(bytes);
        part
    }

    fn wrapped(kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [part(1, b"v1"), part(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), part(1, &meta), part(2, raw)].concat()
    }

    #[test]
    fn a_secret_is_read() {
        let metadata = [part(1, b"s"), part(2, b""), part(8, b"")].concat();
        let entry = [part(1, b"a"), part(2, b"b")].concat();
        let secret = [part(1, &metadata), part(2, &entry), part(3, b"Opaque")].concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "Yg=="}, "type": "Opaque",
        });
        assert_eq!(read(&wrapped("Secret", &secret)).unwrap(), expected);
    }

    #[test]
    fn delete_options_are_read() {
        let options = [part(2, &part(1, b"u")), part(4, b"Background")].concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "u"}, "propagationPolicy": "Background",
        });
        assert_eq!(read(&wrapped("DeleteOptions", &options)).unwrap(), expected);
    }

    #[test]
    fn unknown_messages_and_fields_are_refused() {
        assert!(read(b"{}").is_err());
        assert!(read(&wrapped("Node", b"")).is_err());
        assert!(read(&wrapped("Secret", &part(9, b"x"))).is_err());
        assert!(read(&wrapped("Secret", &[0x0a, 0x7f])).is_err());
    }
}
