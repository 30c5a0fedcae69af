//! A patch of any of the three older kinds.

use serde_json::Value;

use super::strategic::strategic;
use crate::error::{ApiError, ApiResult};
use crate::schema::Schema;

/// As many operations as the API server takes in one JSON patch.
const MOST_OPERATIONS: usize = 10_000;

/// How a patch is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// A patch that is not applied on the server side.
#[derive(Debug)]
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    ///
    /// A body that is no such patch.
    pub(crate) fn read(kind: PatchKind, body: &[u8]) -> ApiResult<Self> {
        let unreadable = |error: serde_json::Error| {
            ApiError::bad_request(format!("error decoding patch: {error}"))
        };
        match kind {
            PatchKind::Json => {
                let patch: json_patch::Patch = serde_json::from_slice(body).map_err(unreadable)?;
                if patch.0.len() > MOST_OPERATIONS {
                    let message = format!(
                        "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
                        patch.0.len()
                    );
                    return Err(ApiError::new(413, "RequestEntityTooLarge", message));
                }
                Ok(Self::Json(patch))
            }
            _ => {
                let value: Value = serde_json::from_slice(body).map_err(unreadable)?;
                if !value.is_object() {
                    return Err(ApiError::bad_request(
                        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
                    ));
                }
                match kind {
                    PatchKind::Strategic => Ok(Self::Strategic(value)),
                    _ => Ok(Self::Merge(value)),
                }
            }
        }
    }

    /// What a patch makes of an object.
    ///
    /// # Errors
    ///
    /// A patch that doesn't fit the object.
    pub(crate) fn apply_to(&self, object: &Value, schema: &Schema) -> ApiResult<Value> {
        match self {
            Self::Json(patch) => {
                let mut patched = object.clone();
                json_patch::patch(&mut patched, patch).map_err(|_| ApiError::rejected())?;
                Ok(patched)
            }
            Self::Merge(patch) => {
                let mut patched = object.clone();
                json_patch::merge(&mut patched, patch);
                Ok(patched)
            }
            Self::Strategic(patch) => strategic(object, patch, schema),
        }
    }
}
