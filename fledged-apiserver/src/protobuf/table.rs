//! The messages that are known, by the numbers of `generated.proto` of the Kubernetes API.

use Field::{Bytes, BytesMap, Flag, Kept, Message as Part, Number, Skipped, Text, TextMap};

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    Text,
    Bytes,
    /// Numbers and flags that are nothing when they are zero.
    Number,
    Flag,
    /// A number that means something even if it is zero.
    Kept,
    Message(&'static Message),
    TextMap,
    BytesMap,
    /// What the server sets, or ignores in new objects.
    Skipped,
}

/// A field of a message: its number, its name, what it holds, and whether there may be many of it.
pub(super) type Row = (u64, &'static str, Field, bool);

/// A message.
#[derive(Debug)]
pub(super) struct Message(pub(super) &'static [Row]);

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

static LABEL_SELECTOR: Message = Message(&[(1, "matchLabels", TextMap, false)]);

static ENV_VAR: Message = Message(&[(1, "name", Text, false), (2, "value", Text, false)]);

static CONTAINER_PORT: Message = Message(&[
    (1, "name", Text, false),
    (2, "hostPort", Number, false),
    (3, "containerPort", Number, false),
    (4, "protocol", Text, false),
    (5, "hostIP", Text, false),
]);

static NOTHING: Message = Message(&[]);

static CONTAINER: Message = Message(&[
    (1, "name", Text, false),
    (2, "image", Text, false),
    (3, "command", Text, true),
    (4, "args", Text, true),
    (5, "workingDir", Text, false),
    (6, "ports", Part(&CONTAINER_PORT), true),
    (7, "env", Part(&ENV_VAR), true),
    (8, "resources", Part(&NOTHING), false),
    (13, "terminationMessagePath", Text, false),
    (14, "imagePullPolicy", Text, false),
    (16, "stdin", Flag, false),
    (17, "stdinOnce", Flag, false),
    (18, "tty", Flag, false),
    (20, "terminationMessagePolicy", Text, false),
]);

static POD_SPEC: Message = Message(&[
    (2, "containers", Part(&CONTAINER), true),
    (3, "restartPolicy", Text, false),
    (4, "terminationGracePeriodSeconds", Kept, false),
    (6, "dnsPolicy", Text, false),
    (7, "nodeSelector", TextMap, false),
    (8, "serviceAccountName", Text, false),
    (9, "serviceAccount", Text, false),
    (10, "nodeName", Text, false),
    (11, "hostNetwork", Flag, false),
    (12, "hostPID", Flag, false),
    (13, "hostIPC", Flag, false),
    (16, "hostname", Text, false),
    (17, "subdomain", Text, false),
    (19, "schedulerName", Text, false),
    (24, "priorityClassName", Text, false),
]);

static POD_TEMPLATE: Message = Message(&[
    (1, "metadata", Part(&OBJECT_META), false),
    (2, "spec", Part(&POD_SPEC), false),
]);

static STRATEGY: Message = Message(&[(1, "type", Text, false)]);

static DEPLOYMENT_SPEC: Message = Message(&[
    (1, "replicas", Kept, false),
    (2, "selector", Part(&LABEL_SELECTOR), false),
    (3, "template", Part(&POD_TEMPLATE), false),
    (4, "strategy", Part(&STRATEGY), false),
    (5, "minReadySeconds", Number, false),
    (6, "revisionHistoryLimit", Kept, false),
    (7, "paused", Flag, false),
    (9, "progressDeadlineSeconds", Kept, false),
]);

static DEPLOYMENT: Message = Message(&[
    (1, "metadata", Part(&OBJECT_META), false),
    (2, "spec", Part(&DEPLOYMENT_SPEC), false),
    (3, "status", Skipped, false),
]);

static JOB_SPEC: Message = Message(&[
    (1, "parallelism", Kept, false),
    (2, "completions", Kept, false),
    (3, "activeDeadlineSeconds", Kept, false),
    (6, "template", Part(&POD_TEMPLATE), false),
    (7, "backoffLimit", Kept, false),
    (8, "ttlSecondsAfterFinished", Kept, false),
    (9, "completionMode", Text, false),
]);

static JOB: Message = Message(&[
    (1, "metadata", Part(&OBJECT_META), false),
    (2, "spec", Part(&JOB_SPEC), false),
    (3, "status", Skipped, false),
]);

static PRECONDITIONS: Message =
    Message(&[(1, "uid", Text, false), (2, "resourceVersion", Text, false)]);

static DELETE_OPTIONS: Message = Message(&[
    (1, "gracePeriodSeconds", Kept, false),
    (2, "preconditions", Part(&PRECONDITIONS), false),
    (4, "propagationPolicy", Text, false),
    (5, "dryRun", Text, true),
]);

static TYPE_META: Message = Message(&[(1, "apiVersion", Text, false), (2, "kind", Text, false)]);

/// What every object is wrapped in.
pub(super) static ENVELOPE: Message = Message(&[
    (1, "typeMeta", Part(&TYPE_META), false),
    (2, "raw", Bytes, false),
    (3, "contentEncoding", Text, false),
    (4, "contentType", Text, false),
]);

/// The message of a kind.
pub(super) fn message(version: &str, kind: &str) -> Option<&'static Message> {
    match (version, kind) {
        // In the version of whatever is deleted.
        (_, "DeleteOptions") => Some(&DELETE_OPTIONS),
        ("v1", "Namespace") => Some(&NAMESPACE),
        ("v1", "Secret") => Some(&SECRET),
        ("v1", "ConfigMap") => Some(&CONFIG_MAP),
        ("v1", "ServiceAccount") => Some(&SERVICE_ACCOUNT),
        ("apps/v1", "Deployment") => Some(&DEPLOYMENT),
        ("batch/v1", "Job") => Some(&JOB),
        _ => None,
    }
}
