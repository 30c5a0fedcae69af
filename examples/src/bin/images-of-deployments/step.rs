//! The next action for a cache, computed from the existing and the desired one.

use fledged_core::model::ImageCacheSpec;
use fledged_kube::crd::ReadCache;
use kube::ResourceExt;
use serde_json::{Value, json};

/// Name of all caches of this controller.
pub(crate) const CACHE: &str = "deployments";
/// Label of all caches of this controller, and its value.
pub(crate) const MANAGED_BY: (&str, &str) =
    ("app.kubernetes.io/managed-by", "images-of-deployments");

/// The next action for the cache of a namespace.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// The cache is up to date.
    Nothing,
    /// A cache of this name has another owner.
    NotOurs,
    /// Apply this object.
    Apply(Value),
    /// Delete the cache with this UID.
    Delete(Option<String>),
}

/// Returns the next step from the existing to the desired cache.
pub(crate) fn step(found: Option<&ReadCache>, wanted: Option<&ImageCacheSpec>) -> Step {
    if found.is_some_and(|cache| !is_ours(cache)) {
        return Step::NotOurs;
    }
    match (found, wanted) {
        (None, None) => Step::Nothing,
        (Some(found), None) => Step::Delete(found.uid()),
        (found, Some(wanted)) => {
            // Only these two fields are applied, so users can set others, such as `rollout`. Both are always
            // present, because this controller would give up ownership of a field that it leaves out.
            let spec = json!({
                "cacheSpec": wanted.cache_spec,
                "imagePullSecrets": wanted.image_pull_secrets,
            });
            let same = |found: &ReadCache| {
                let fields = spec.as_object().into_iter().flatten();
                let mut fields = fields.map(|(name, value)| found.spec.get(name) == Some(value));
                fields.all(|same| same)
            };
            match found.is_some_and(same) {
                true => Step::Nothing,
                false => Step::Apply(object(&spec)),
            }
        }
    }
}

fn is_ours(cache: &ReadCache) -> bool {
    let (label, value) = MANAGED_BY;
    cache
        .labels()
        .get(label)
        .is_some_and(|found| found == value)
}

fn object(spec: &Value) -> Value {
    let (label, value) = MANAGED_BY;
    json!({
        "apiVersion": "kubefledged.io/v1alpha2",
        "kind": "ImageCache",
        "metadata": { "name": CACHE, "labels": { label: value } },
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use fledged_core::model::CacheSpecImages;

    use super::*;

    fn mk_spec(image: &str, secrets: &[&str]) -> ImageCacheSpec {
        ImageCacheSpec::new([CacheSpecImages::new([image])])
            .with_image_pull_secrets(secrets.iter().copied())
    }

    /// Returns the cache as it is read after it was applied.
    fn mk_found(spec: &ImageCacheSpec) -> ReadCache {
        let Step::Apply(mut object) = step(None, Some(spec)) else {
            panic!("nothing is applied");
        };
        object["metadata"]["uid"] = json!("u-1");
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn an_up_to_date_cache_is_not_written() {
        for secrets in [&[][..], &["a"]] {
            let spec = mk_spec("quay.io/team/app:1", secrets);
            let mut found = mk_found(&spec);
            assert_eq!(step(Some(&found), Some(&spec)), Step::Nothing);
            found.spec["rollout"] = json!({ "maxConcurrentNodes": 1 });
            assert_eq!(step(Some(&found), Some(&spec)), Step::Nothing);
        }
        assert_eq!(step(None, None), Step::Nothing);
    }

    #[test]
    fn a_different_spec_is_applied() {
        let found = mk_found(&mk_spec("quay.io/team/app:1", &["a"]));
        for (image, secrets) in [
            ("quay.io/team/app:2", &["a"][..]),
            ("quay.io/team/app:1", &[]),
        ] {
            let wanted = mk_spec(image, secrets);
            let step = step(Some(&found), Some(&wanted));
            assert!(matches!(step, Step::Apply(_)), "{image}: {step:?}");
        }
    }

    #[test]
    fn a_cache_without_deployments_is_deleted() {
        let found = mk_found(&mk_spec("quay.io/team/app:1", &[]));
        assert_eq!(
            step(Some(&found), None),
            Step::Delete(Some("u-1".to_owned()))
        );
    }

    #[test]
    fn a_cache_of_another_owner_is_left_unchanged() {
        let spec = mk_spec("quay.io/team/app:1", &[]);
        let mut found = mk_found(&spec);
        found.metadata.labels = None;
        assert_eq!(step(Some(&found), Some(&spec)), Step::NotOurs);
        assert_eq!(step(Some(&found), None), Step::NotOurs);
    }
}
