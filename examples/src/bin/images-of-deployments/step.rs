//! What is to be done, given what is there.

use fledged_core::model::ImageCacheSpec;
use fledged_operator::crd::ReadCache;
use kube::ResourceExt;
use serde_json::{Value, json};

/// Name of every cache that is kept here.
pub(crate) const CACHE: &str = "deployments";
/// Label of every cache that is kept here, and its value.
pub(crate) const MANAGED_BY: (&str, &str) =
    ("app.kubernetes.io/managed-by", "images-of-deployments");

/// What is to be done about the cache of one namespace.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Everything is as it should be.
    Nothing,
    /// Somebody else made a cache of that name.
    NotOurs,
    /// Apply this object.
    Apply(Value),
    /// Delete the cache with that UID.
    Delete(Option<String>),
}

/// The next step from what was found to what is wanted.
pub(crate) fn step(found: Option<&ReadCache>, wanted: Option<&ImageCacheSpec>) -> Step {
    if found.is_some_and(|cache| !is_ours(cache)) {
        return Step::NotOurs;
    }
    match (found, wanted) {
        (None, None) => Step::Nothing,
        (Some(found), None) => Step::Delete(found.uid()),
        (found, Some(wanted)) => {
            // These two fields alone: whoever sets others, such as `rollout`, keeps them. Both are
            // always there, as one that is left out would be left to others too.
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

    /// The cache as it is read after it was applied.
    fn mk_found(spec: &ImageCacheSpec) -> ReadCache {
        let Step::Apply(mut object) = step(None, Some(spec)) else {
            panic!("nothing is applied");
        };
        object["metadata"]["uid"] = json!("u-1");
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_is_as_it_should_be_is_not_written() {
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
    fn what_differs_is_applied() {
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
    fn a_cache_without_deployments_goes() {
        let found = mk_found(&mk_spec("quay.io/team/app:1", &[]));
        assert_eq!(
            step(Some(&found), None),
            Step::Delete(Some("u-1".to_owned()))
        );
    }

    #[test]
    fn a_cache_of_somebody_elses_is_left_alone() {
        let spec = mk_spec("quay.io/team/app:1", &[]);
        let mut found = mk_found(&spec);
        found.metadata.labels = None;
        assert_eq!(step(Some(&found), Some(&spec)), Step::NotOurs);
        assert_eq!(step(Some(&found), None), Step::NotOurs);
    }
}
