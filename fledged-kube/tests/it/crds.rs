//! The custom resources: the shipped definitions match the types, and serialization loses nothing.
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, ByteSize, CacheId, DesiredState, Digest, ImagePhase, ImagePullPolicy, ImageRef,
    ImageReport, NodeName, NodeReport, ObjectName, PullLimit, PullRate,
};
use fledged_core::planner::{
    ActionReason, ActionStatus, CacheStatus, Condition, ConditionKind, NodeFailure, PairCounts,
};
use fledged_kube::crd::{
    ImageCache, ImageCacheStatus, NodeImageCache, NodeImageCacheSpec, NodeImageCacheStatus,
    ReadCache, ReadNodeCache, definitions_yaml,
};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

#[test]
fn shipped_definitions_match_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubefledged-crd.yaml");
    let shipped = std::fs::read_to_string(path).unwrap();
    assert!(
        shipped == definitions_yaml().unwrap(),
        "deploy/kubefledged-crd.yaml is not what the types say now; make it so with\n\
         cargo run -p fledged-operator --features binary -- crds > deploy/kubefledged-crd.yaml"
    );
}

/// The sample in kube-fledged's repository, with all fields of its v1alpha2.
const THEIRS: &str = "
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata:
  name: imagecache1
  namespace: kube-fledged
  labels:
    app: kubefledged
    kubefledged: imagecache
spec:
  cacheSpec:
  - images:
    - ghcr.io/jitesoft/nginx:1.23.1
  - images:
    - us.gcr.io/k8s-artifacts-prod/cassandra:v7
    - us.gcr.io/k8s-artifacts-prod/etcd:3.5.4-0
    nodeSelector:
      tier: backend
  imagePullSecrets:
  - name: myregistrykey
status:
  status: Succeeded
  reason: ImageCacheCreate
  message: All requested images pulled succesfuly to respective nodes
  startTime: 2026-01-01T00:00:00Z
  completionTime: 2026-01-01T00:01:00Z
";

#[test]
fn manifests_of_kube_fledged_are_read() {
    let cache: ImageCache = serde_saphyr::from_str(THEIRS).unwrap();
    let [first, second] = &cache.spec.cache_spec[..] else {
        panic!("{cache:?}");
    };
    assert_eq!(first.images, ["ghcr.io/jitesoft/nginx:1.23.1"]);
    assert_eq!(first.node_selector, None);
    assert_eq!(second.images.len(), 2);
    assert_eq!(second.node_selector.as_ref().unwrap()["tier"], "backend");
    assert_eq!(cache.spec.image_pull_secrets[0].name, "myregistrykey");
    // The status of kube-fledged is not adopted, because it may be outdated.
    assert_eq!(cache.status.unwrap().to_recorded(1), None);

    let read: ReadCache = serde_saphyr::from_str(THEIRS).unwrap();
    let valid = read.into_facts().spec.unwrap();
    assert_eq!(
        valid.pull_secrets[0].to_string(),
        "kube-fledged/myregistrykey"
    );
}

#[test]
fn a_cache_purged_by_kube_fledged_stays_purged() {
    let purged = THEIRS.replace("ImageCacheCreate", "ImageCachePurge");
    let cache: ImageCache = serde_saphyr::from_str(&purged).unwrap();
    let recorded = cache.status.unwrap().to_recorded(7).unwrap();
    assert!(recorded.purged);
    assert_eq!(recorded.observed_generation, 7);
}

fn mk_status(status: ActionStatus, reason: ActionReason) -> CacheStatus {
    let failure = |node: &str, reason, message: &str| {
        NodeFailure::new(NodeName::new(node).unwrap(), reason, message)
    };
    let condition =
        |kind, status, reason: &str| Condition::new(kind, status, reason, "a sentence", at(5));
    let mut recorded = CacheStatus::new(3, reason, status, at(0));
    recorded.message = "2 of 4 images are on their nodes".to_owned();
    recorded.failures = BTreeMap::from([
        (
            "quay.io/team/app:1".to_owned(),
            vec![
                failure("node-1", Reason::ImageNotFound, "manifest unknown"),
                failure("node-2", Reason::DiskFull, "no space left on device"),
            ],
        ),
        ("nginx".to_owned(), Vec::new()),
    ]);
    recorded.failures_total = 2;
    recorded.counts = PairCounts::new(1, 0, 2, 1);
    recorded.conditions = vec![
        condition(ConditionKind::Ready, false, "Failed"),
        condition(ConditionKind::Progressing, false, "Done"),
        condition(ConditionKind::Degraded, true, "Failed"),
    ];
    recorded.completion_time = Some(at(60));
    recorded.refresh_revision = 1_767_225_600_123;
    recorded.verify_revision = 1_767_225_500_123;
    recorded.purged = reason == ActionReason::ImageCachePurge;
    recorded
}

#[test]
fn a_status_survives_serialization() {
    for status in [
        ActionStatus::Processing,
        ActionStatus::Succeeded,
        ActionStatus::Failed,
        ActionStatus::Unknown,
        ActionStatus::NoImagesPulledOrDeleted,
    ] {
        for reason in [
            ActionReason::ImageCacheCreate,
            ActionReason::ImageCacheUpdate,
            ActionReason::ImageCacheRefresh,
            ActionReason::ImageCachePurge,
            ActionReason::ImageCacheDelete,
            ActionReason::CacheSpecValidationFailed,
        ] {
            let recorded = mk_status(status, reason);
            let text = serde_json::to_string(&ImageCacheStatus::from(&recorded)).unwrap();
            let wire: ImageCacheStatus = serde_json::from_str(&text).unwrap();
            assert_eq!(wire.cached.as_deref(), Some("1/4"));
            assert_eq!(wire.to_recorded(99), Some(recorded));
        }
    }
}

const IMAGES: [&str; 6] = [
    "docker.io/library/nginx:latest",
    "quay.io/team/app:1",
    "quay.io/team/app:2",
    "registry.example.com:5000/a/b/c:v1.2.3-rc.1",
    "ghcr.io/x/y@sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
    "localhost:5000/z:0",
];

fn name() -> impl Strategy<Value = ObjectName> {
    ("[a-z]{1,4}", "[a-z][a-z0-9.-]{0,6}[a-z]")
        .prop_map(|(namespace, name)| ObjectName::new(namespace, name))
}

fn caches() -> Vec<CacheId> {
    [
        ("a", "web", "u-3"),
        ("a", "jobs", "u-1"),
        ("b", "web", "u-2"),
    ]
    .map(|(namespace, name, uid)| CacheId::new(namespace, name, uid))
    .to_vec()
}

fn entry(image: &'static str) -> impl Strategy<Value = AssignedImage> {
    (
        prop::bool::weighted(0.2),
        any::<bool>(),
        0..=i64::MAX.unsigned_abs(),
        prop_oneof![Just(300), any::<u32>()],
        any::<i32>(),
        prop::collection::vec(name(), 0..3),
        prop::collection::vec(name(), 0..3),
        prop::sample::subsequence(caches(), 0..=3),
        prop::option::of((64 * 1024..=1_u64 << 40, any::<prop::sample::Index>())),
    )
        .prop_map(
            move |(
                absent,
                always,
                revision,
                seconds,
                priority,
                secrets,
                accounts,
                wanted_by,
                limit,
            )| {
                let image = ImageRef::parse(image).unwrap();
                let mut entry = AssignedImage::present(image);
                entry.pull_policy = match always {
                    true => ImagePullPolicy::Always,
                    false => ImagePullPolicy::IfNotPresent,
                };
                entry.revision = revision;
                entry.priority = priority;
                entry.pull_secrets = secrets;
                entry.service_accounts = accounts;
                // An absent image has no caches and no pull deadline.
                if absent {
                    entry.state = DesiredState::Absent;
                } else {
                    entry.deadline = Duration::from_secs(seconds.into());
                    entry.wanted_by = wanted_by;
                    entry.wanted_by.sort();
                    let limit = limit.filter(|_| !entry.wanted_by.is_empty());
                    entry.pull_limit = limit.map(|(rate, cache)| {
                        let cache = cache.get(&entry.wanted_by).clone();
                        PullLimit::new(cache, PullRate::new(ByteSize::new(rate)).unwrap())
                    });
                }
                entry
            },
        )
}

fn assignment() -> impl Strategy<Value = Vec<AssignedImage>> {
    let some = prop::sample::subsequence(IMAGES.to_vec(), 0..=IMAGES.len()).prop_shuffle();
    some.prop_flat_map(|images| images.into_iter().map(entry).collect::<Vec<_>>())
}

/// Reads the record as a watch returns it.
fn read(spec: &Value) -> ReadNodeCache {
    let object = json!({ "metadata": { "name": "node-1", "generation": 7 }, "spec": spec });
    serde_json::from_str(&object.to_string()).unwrap()
}

proptest! {
    #[test]
    fn an_assignment_survives_serialization(images in assignment()) {
        let spec = NodeImageCacheSpec::from_images(&images);
        let (assignment, invalid) = read(&serde_json::to_value(&spec).unwrap()).assignment();
        prop_assert_eq!(&invalid, &[]);
        prop_assert_eq!(assignment.generation, 7);
        prop_assert_eq!(&assignment.images, &images);
        // A spec that was read is written unchanged, so comparing shows that no write is needed.
        prop_assert_eq!(NodeImageCacheSpec::from_images(&assignment.images), spec);
    }
}

#[test]
fn deadlines_are_rounded_up_to_seconds() {
    let mut entry = AssignedImage::present(ImageRef::parse("nginx").unwrap());
    entry.deadline = Duration::from_millis(1_001);
    let spec = NodeImageCacheSpec::from_images(&[entry]);
    assert_eq!(spec.images[0].pull_deadline_seconds, Some(2));
}

#[test]
fn the_cache_of_a_pull_rate_is_written_only_if_several_share_the_image() {
    let [a, b, _] = caches().try_into().unwrap();
    let limit = PullLimit::new(b.clone(), "20Mi".parse().unwrap());
    let image = || AssignedImage::present(ImageRef::parse("nginx").unwrap());
    let entry = |caches: &[&CacheId]| {
        let wanted_by = caches.iter().map(|id| (*id).clone());
        let entry = image()
            .with_wanted_by(wanted_by)
            .with_pull_limit(limit.clone());
        NodeImageCacheSpec::from_images(&[entry]).images.remove(0)
    };
    let alone = entry(&[&b]);
    assert_eq!(alone.max_pull_rate, Some(20 << 20));
    assert_eq!(alone.max_pull_rate_of, None);
    assert_eq!(entry(&[&a, &b]).max_pull_rate_of, Some(b.uid));
    let record = |rate: i64, of: &str| {
        let image = json!({ "image": "nginx", "maxPullRate": rate, "maxPullRateOf": of });
        let cache = json!({ "namespace": "a", "name": "web", "uid": "u-3" });
        read(&json!({ "caches": [cache], "images": [image] })).assignment()
    };
    // Another program wrote it.
    let (assignment, invalid) = record(7, "unknown");
    assert_eq!(invalid, []);
    let read = assignment.images[0].pull_limit.clone();
    assert_eq!(read, Some(PullLimit::new(a, PullRate::LEAST)));
}

#[test]
fn invalid_entries_are_skipped_and_named() {
    let record = read(&json!({
        "caches": [
            { "namespace": "a", "name": "web", "uid": "u-1" },
            { "namespace": "a" },
        ],
        "images": [
            { "image": "Not An Image" },
            { "image": "quay.io/team/app:1" },
            { "image": "quay.io/team/app:2", "state": "Sideways" },
            "quay.io/team/app:3",
            { "state": "Absent" },
        ],
    }));
    let (assignment, invalid) = record.assignment();
    let [left] = &assignment.images[..] else {
        panic!("{assignment:?}");
    };
    assert_eq!(left.image.as_str(), "quay.io/team/app:1");
    assert_eq!(left.wanted_by, [CacheId::new("a", "web", "u-1")]);
    let named: Vec<(&str, &str)> = invalid
        .iter()
        .map(|problem| (problem.field.as_str(), problem.value.as_str()))
        .collect();
    let entry = |at: usize| record.spec["images"][at].to_string();
    let expected = [
        ("spec.caches[1]", r#"{"namespace":"a"}"#.to_owned()),
        ("spec.images[0].image", r#""Not An Image""#.to_owned()),
        ("spec.images[2]", entry(2)),
        ("spec.images[3]", entry(3)),
        ("spec.images[4]", entry(4)),
    ];
    let expected: Vec<(&str, &str)> = expected.iter().map(|(f, v)| (*f, v.as_str())).collect();
    assert_eq!(named, expected);
    assert!(
        invalid[0].to_string().contains("missing field"),
        "{invalid:?}"
    );
}

/// Returns the size of a record with `count` pulled images, as an API server stores it.
fn bytes(count: usize) -> usize {
    let uid = "0b0a4c5e-6f0e-4d3c-9c7c-0b7d8f1e2a3b";
    let mut images = Vec::new();
    let mut reports = Vec::new();
    for n in 0..count {
        let image = format!("registry.example.com/team/worker-{n:04}:v1");
        let image = ImageRef::parse(&image).unwrap();
        assert_eq!(image.as_str().len(), 40, "{image}");
        let mut entry = AssignedImage::present(image.clone());
        entry.wanted_by = vec![CacheId::new("production", "all-services", uid)];
        images.push(entry);
        let mut report = ImageReport::new(image, ImagePhase::Cached);
        report.digest = Some(Digest::parse(&format!("sha256:{n:064x}")).unwrap());
        report.size = Some(ByteSize::new(123_456_789));
        report.attempts = 1;
        report.started_at = Some(at(0));
        report.finished_at = Some(at(60));
        reports.push(report);
    }
    let report = NodeReport::new(1, reports);
    let owner = format!("k:{{\"uid\":\"{uid}\"}}");
    let fields = |manager: &str, part: &str, fields: Value| {
        let mut entry = json!({
            "manager": manager, "operation": "Apply", "time": at(0),
            "apiVersion": "kubefledged.io/v1alpha2", "fieldsType": "FieldsV1", "fieldsV1": fields,
        });
        if !part.is_empty() {
            entry["subresource"] = part.into();
        }
        entry
    };
    let node = "ip-10-0-123-45.eu-central-1.compute.internal";
    let metadata = json!({
        "name": node, "uid": uid, "generation": 1, "resourceVersion": "123456789",
        "creationTimestamp": at(0),
        "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": node, "uid": uid }],
        "managedFields": [
            fields("fledged-controller", "", json!({
                "f:metadata": { "f:ownerReferences": { owner: {} } },
                "f:spec": { "f:caches": {}, "f:images": {} },
            })),
            fields("fledged-agent", "status", json!({ "f:status": {
                "f:cached": {}, "f:desired": {}, "f:failed": {}, "f:images": {},
                "f:observedGeneration": {},
            } })),
        ],
    });
    let mut record = NodeImageCache::new(node, NodeImageCacheSpec::from_images(&images));
    record.metadata = serde_json::from_value(metadata).unwrap();
    record.status = Some(NodeImageCacheStatus::from_report(&report));
    serde_json::to_vec(&record).unwrap().len()
}

#[test]
fn records_are_small() {
    // 7,287 bytes now: 250 for each image in the status, 54 in the spec, and 1.2 KB of metadata.
    let twenty = bytes(20);
    assert!(twenty < 7_500, "{twenty} bytes");
    // etcd's limit is 1.5 MiB.
    let most = bytes(2_000);
    assert!(most < 700_000, "{most} bytes");
}

#[test]
fn only_annotations_of_an_applied_manifest_are_declared() {
    let purge = "kubefledged.io/purge-imagecache";
    let declared = |more: Value| {
        let mut object = json!({
            "metadata": { "name": "web", "namespace": "shop", "annotations": { purge: "1" } },
            "spec": { "cacheSpec": [{ "images": ["app:1"] }] },
        });
        let metadata = object["metadata"].as_object_mut().unwrap();
        for (name, value) in more.as_object().unwrap() {
            match metadata.get_mut(name).and_then(Value::as_object_mut) {
                Some(known) => known.extend(value.as_object().unwrap().clone()),
                None => drop(metadata.insert(name.clone(), value.clone())),
            }
        }
        let read: ReadCache = serde_json::from_value(object).unwrap();
        let facts = read.into_facts();
        assert!(facts.purge_requested);
        facts.declared_purge
    };
    let fields = json!({ "f:metadata": { "f:annotations": { format!("f:{purge}"): {} } } });
    let managed = |operation: &str| json!({ "managedFields": [{ "manager": "m", "operation": operation, "fieldsV1": fields }] });
    let applied = |manifest: &str| json!({ "annotations": { "kubectl.kubernetes.io/last-applied-configuration": manifest } });
    let with = json!({ "metadata": { "annotations": { purge: "1" } } }).to_string();
    assert_eq!(declared(json!({})), None);
    assert_eq!(declared(managed("Update")), None);
    assert_eq!(declared(managed("Apply")), Some("1".to_owned()));
    assert_eq!(declared(applied("{}")), None);
    assert_eq!(declared(applied("not JSON")), None);
    assert_eq!(declared(applied(&with)), Some("1".to_owned()));
}
