//! The targets: one for each kind of input from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use fledged_core::error::plain_text;
use fledged_core::model::{
    CountOrPercent, Digest, GoDuration, ImageRef, NodeAffinity, NodeFacts, NodeName,
    ProtectedImages,
};
use fledged_cri::RuntimeUri;
use fledged_cri::classify::{failure_of_text, redact, retry_after, retry_after_of_text};
use fledged_kube::crd::{NodeImageCacheStatus, ReadCache, ReadNodeCache};
use fledged_operator::jobs::RemovalOutcomes;
use jiff::Timestamp;
use kube::core::admission::AdmissionReview;

/// A parser of bytes from outside.
#[derive(Debug)]
pub struct Target {
    /// The name, also of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Parses the input. Panics if a property does not hold.
    pub run: fn(&[u8]),
}

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

macro_rules! targets {
    ($($name:ident => $run:expr),+ $(,)?) => {
        /// All targets.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), run: $run }),+];
    };
}

targets! {
    admission_review => admission_review,
    classified_text => classified_text,
    containerd_config => fledged_cri::registry::fuzzing::containerd_config,
    containerd_settings => fledged_cri::inspection::fuzzing::containerd_settings,
    cri_error => fledged_cri::cri::fuzzing::error,
    cri_lists => fledged_cri::cri::fuzzing::lists,
    cri_verbose_status => fledged_cri::cri::fuzzing::verbose_status,
    docker_config => fledged_cri::credentials::fuzzing::docker_config,
    docker_error => fledged_cri::docker::fuzzing::error,
    docker_images => fledged_cri::docker::fuzzing::images,
    docker_pull_events => fledged_cri::docker::fuzzing::pull_events,
    helper_answer => fledged_cri::credentials::fuzzing::helper_answer,
    hosts_toml => fledged_cri::registry::fuzzing::hosts_toml,
    image_cache => image_cache,
    image_pattern => fledged_cri::credentials::fuzzing::image_pattern,
    image_ref => image_ref,
    kubelet_config => fledged_cri::inspection::fuzzing::kubelet_config,
    node_affinity => node_affinity,
    node_image_cache => node_image_cache,
    oci_index => oci_index,
    no_proxy => fledged_cri::registry::fuzzing::no_proxy,
    plain_values => plain_values,
    pressure => fledged_cri::inspection::fuzzing::pressure,
    protected_images => protected_images,
    provider_config => fledged_cri::credentials::fuzzing::provider_config,
    provider_response => fledged_cri::credentials::fuzzing::provider_response,
    registry_challenge => fledged_cri::registry::fuzzing::challenge,
    registry_manifest => fledged_cri::registry::fuzzing::manifest,
    registry_token => fledged_cri::registry::fuzzing::token,
    removal_message => removal_message,
}

/// An image reference. What parses has a form that parses to the same reference.
fn image_ref(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(image) = ImageRef::parse(&text) {
        let again = ImageRef::parse(image.as_str()).expect("the normalised form parses");
        assert_eq!(again, image);
        assert_eq!(again.as_str(), image.as_str());
        assert!(image.as_str().starts_with(image.registry()));
    }
}

/// Durations, counts, digests, names and runtime addresses as users write them.
fn plain_values(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(duration) = text.parse::<GoDuration>() {
        let again: GoDuration = duration.to_string().parse().expect("a duration parses");
        assert_eq!(again, duration);
    }
    if let Ok(count) = text.parse::<CountOrPercent>() {
        let _ = (count.check(), count.of(0), count.of(5_000));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(Digest::parse(digest.as_str()), Ok(digest));
    }
    let _ = (NodeName::new(&*text), text.parse::<RuntimeUri>());
}

/// A text of a registry or a runtime: its class, its delay, and its form for people.
fn classified_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let failure = failure_of_text(&text);
    assert!(!failure.message.contains(|c: char| c.is_control()));
    let _ = retry_after_of_text(&text);
    let delay = retry_after(&text, Timestamp::UNIX_EPOCH);
    assert!(delay.is_none_or(|delay| delay < Duration::from_secs(1 << 40)));
    assert!(!redact(&text, &["hunter2-secret"]).contains("hunter2-secret"));
    assert!(plain_text(&text, 400).chars().count() <= 401);
}

/// An ImageCache as the API server sends it: metadata, spec, status.
fn image_cache(bytes: &[u8]) {
    if let Ok(cache) = serde_json::from_slice::<ReadCache>(bytes) {
        let _ = (cache.id(), cache.has_foreign_status());
        let _ = cache.into_facts();
    }
}

/// A NodeImageCache: the assignment that an agent reads, and the report that the controller reads.
fn node_image_cache(bytes: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<ReadNodeCache>(bytes) {
        let _ = (record.generation(), record.assignment());
        if let Some(report) = record.report() {
            let _ = NodeImageCacheStatus::from_report(&report);
        }
    }
}

/// A review of the admission webhook.
fn admission_review(bytes: &[u8]) {
    let review = serde_json::from_slice::<AdmissionReview<ReadCache>>(bytes);
    if let Some(request) = review.ok().and_then(|review| review.request) {
        let old = request.old_object;
        if let Some(object) = request.object {
            let nodes = [NodeFacts::new(NodeName::new("node-1").expect("a name"))];
            let interval = Duration::from_secs(900);
            let _ = fledged_webhook::judge(object, old.as_ref(), Some(&nodes), interval, interval);
        }
    }
}

/// A node affinity, in JSON, matched with a node.
fn node_affinity(bytes: &[u8]) {
    if let Ok(affinity) = serde_json::from_slice::<NodeAffinity>(bytes) {
        let labels = BTreeMap::from([("zone".to_owned(), "7".to_owned())]);
        let _ = (affinity.validate(), affinity.matches("node-1", &labels));
    }
}

/// Globs of images that are never removed, one a line, matched with an image.
fn protected_images(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let protected = ProtectedImages::new(text.lines().take(100));
    let image = ImageRef::parse("registry.k8s.io/pause:3.10").expect("an image");
    let _ = protected.why_kept(&image);
}

/// The termination message of a removal Job. What parses is written in a form that parses.
fn removal_message(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(outcomes) = RemovalOutcomes::parse(&text) {
        for place in 0..10 {
            let _ = outcomes.get(place);
        }
        RemovalOutcomes::parse(&outcomes.to_message()).expect("the message parses");
    }
}

/// `index.json` of an OCI image layout.
fn oci_index(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
    std::fs::write(folder.path().join("oci-layout"), version).expect("a file");
    std::fs::create_dir_all(folder.path().join("blobs/sha256")).expect("a folder");
    std::fs::write(folder.path().join("index.json"), bytes).expect("a file");
    fledged_cri::oci::fuzzing::inventory(folder.path());
}
