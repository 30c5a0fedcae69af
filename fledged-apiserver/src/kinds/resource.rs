//! A resource in one of its versions.

use std::sync::Arc;

use super::Builtin;
use crate::error::ApiError;
use crate::schema::Schema;

/// A column of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    pub(crate) priority: i64,
    pub(crate) path: String,
}

/// A resource as it is served in one version.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) namespaced: bool,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    /// Whether there is a `/status`.
    pub(crate) status: bool,
    /// Where its objects lie: `resource.group`.
    pub(crate) table: Arc<str>,
    /// The version its objects are stored in, as `apiVersion` has it.
    pub(crate) stored_as: String,
    /// None for custom resources.
    pub(crate) builtin: Option<Builtin>,
    pub(crate) schema: Arc<Schema>,
    pub(crate) columns: Vec<Column>,
    /// Fields to select by, beyond name and namespace.
    pub(crate) selectable: Vec<String>,
    /// What to warn every user of the version of.
    pub(crate) deprecation: Option<String>,
}

impl Resource {
    /// `group/version`, or `v1`.
    pub(crate) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    pub(crate) fn is_custom(&self) -> bool {
        self.builtin.is_none()
    }

    pub(crate) fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(&self.group, &self.plural, name)
    }

    pub(crate) fn modified(&self, name: &str) -> ApiError {
        ApiError::modified(&self.group, &self.plural, name)
    }
}
