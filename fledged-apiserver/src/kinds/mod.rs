//! The kinds that are served: built-in ones, and those that CRDs define.

mod builtin;
mod custom;
mod printer_column;
mod resource;
mod versions;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use builtin::resources;

pub(crate) use builtin::builtin_document;
pub(crate) use custom::{accepted_status, schemas, served_by};
pub(crate) use printer_column::{Column, JsonPath};
pub(crate) use resource::{Builtin, Resource};
pub(crate) use versions::{convert, convert_path, version_rank};

type Resources = Vec<Arc<Resource>>;

/// The resources served, built-in ones first.
pub(crate) struct Catalogue {
    builtin: Resources,
    /// Those of each CRD, by its name.
    custom: RwLock<BTreeMap<String, Resources>>,
}

impl Catalogue {
    pub(crate) fn new() -> Self {
        Self {
            builtin: resources().into_iter().map(Arc::new).collect(),
            custom: RwLock::default(),
        }
    }

    /// Replaces the resources of a CRD; an empty list removes them.
    pub(crate) fn define(&self, crd: &str, resources: Resources) {
        let mut custom = self.custom.write().unwrap_or_else(PoisonError::into_inner);
        match resources.is_empty() {
            true => custom.remove(crd),
            false => custom.insert(crd.to_owned(), resources),
        };
    }

    /// All resources that are served.
    pub(crate) fn all(&self) -> Resources {
        let custom = self.custom.read().unwrap_or_else(PoisonError::into_inner);
        self.builtin
            .iter()
            .chain(custom.values().flatten())
            .cloned()
            .collect()
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.first(|r| r.group == group && r.version == version && r.plural == plural)
    }

    pub(crate) fn find_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.first(|r| r.kind == kind && r.api_version() == api_version)
    }

    /// Any version of the resource whose objects are in a table.
    pub(crate) fn of_table(&self, table: &str) -> Option<Arc<Resource>> {
        self.first(|r| *r.table == *table)
    }

    fn first(&self, test: impl Fn(&Resource) -> bool) -> Option<Arc<Resource>> {
        if let Some(found) = self.builtin.iter().find(|resource| test(resource)) {
            return Some(Arc::clone(found));
        }
        let custom = self.custom.read().unwrap_or_else(PoisonError::into_inner);
        custom
            .values()
            .flatten()
            .find(|resource| test(resource))
            .cloned()
    }
}
