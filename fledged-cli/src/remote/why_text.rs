//! The answer of `fledged why` as text and JSON: the words, the evidence and what to do. The cause itself comes from
//! `Planner::explain`.

use std::fmt::Write as _;

use console::Style;
use fledged_core::error::Reason;
use fledged_core::model::ImageRef;
use jiff::Timestamp;
use serde::Serialize;

use super::cloud_registry::cloud_registry;
use crate::output::{age, on_one_line, pluralised, span};

/// Why an image is or is not cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum WhyReason {
    /// The image is cached.
    Cached,
    /// The spec of the ImageCache is invalid.
    InvalidSpec,
    /// The spec does not contain the image.
    ImageNotInCache,
    /// The node does not exist.
    NodeNotFound,
    /// The ImageCache is being deleted.
    CacheDeleting,
    /// The ImageCache does not select the node.
    NodeNotSelected,
    /// The ImageCache does not tolerate a taint of the node.
    NodeTainted,
    /// The ImageCache is purged.
    CachePurged,
    /// The image is to be removed, but a container uses it.
    KeptInUse,
    /// The node is virtual, for example EKS Fargate.
    NodeVirtual,
    /// The node has another operating system.
    NodeNotLinux,
    /// The node is about to be deleted.
    NodeLeaving,
    /// The node is not Ready.
    NodeNotReady,
    /// No controller has processed the newest version of the ImageCache.
    NotTakenUp,
    /// The image is not assigned to the node yet.
    NotAssigned,
    /// The node's NodeImageCache has no room for the images of the ImageCache.
    NodeRecordFull,
    /// The node's agent is unresponsive.
    AgentSilent,
    /// The node's agent has not started with the image.
    Waiting,
    /// The image is being pulled.
    Pulling,
    /// Pulls fail and are retried.
    BackingOff,
    /// The last round of pulls failed.
    Failed,
}

/// A field that shows the cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Evidence {
    /// Kind and name of the object.
    pub(super) object: String,
    /// Path of the field.
    pub(super) field: String,
    /// Value of the field.
    pub(super) value: String,
    /// Since when the field has the value, if known.
    pub(super) since: Option<Timestamp>,
}

/// The result, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    /// Namespace of the ImageCache.
    pub(super) namespace: String,
    /// Name of the ImageCache.
    pub(super) name: String,
    /// Name of the node.
    pub(super) node: String,
    /// The image as given in the arguments.
    pub(super) image: String,
    /// Whether the image is cached.
    pub(super) cached: bool,
    /// The cause, in one word.
    pub(super) reason: WhyReason,
    /// The cause, in words.
    pub(super) because: String,
    /// The fields that show the cause.
    pub(super) evidence: Vec<Evidence>,
    /// The reason of a failed pull, in one word.
    pub(super) failure: Option<String>,
    /// The message of the registry or runtime.
    pub(super) message: Option<String>,
    /// Attempts of the current or last round of pulls.
    pub(super) attempts: Option<u32>,
    /// Time of the next attempt.
    pub(super) next_attempt: Option<Timestamp>,
    /// Digest of the image on the node.
    pub(super) digest: Option<String>,
    /// What to do.
    pub(super) advice: Option<String>,
}

impl Answer {
    /// Adds evidence.
    pub(super) fn with(
        mut self,
        object: String,
        field: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        self.evidence.push(Evidence {
            object,
            field: field.into(),
            value: value.into(),
            since: None,
        });
        self
    }

    /// Sets the time of the evidence that was added last.
    pub(super) fn since(mut self, at: Option<Timestamp>) -> Self {
        if let Some(last) = self.evidence.last_mut() {
            last.since = at;
        }
        self
    }

    /// Adds the generation of an object and the generation that its status is for.
    pub(super) fn with_generations(
        self,
        object: String,
        generation: u64,
        observed: Option<u64>,
    ) -> Self {
        let observed = observed.map_or_else(|| "none".to_owned(), |observed| observed.to_string());
        self.with(
            object.clone(),
            "metadata.generation",
            generation.to_string(),
        )
        .with(object, "status.observedGeneration", observed)
    }

    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// What to do about a failed pull.
pub(super) fn pull_advice(
    reason: Reason,
    message: &str,
    image: &ImageRef,
    architecture: &str,
    namespace: &str,
) -> String {
    let advice = match reason {
        Reason::Unauthorized | Reason::CredentialsUnavailable
            if message.contains("credential provider \"") =>
        {
            "give the node a role that may pull the image, and let the agent reach the metadata server and the cloud's API: agent.hostNetwork, agent.credentialProviders.egress"
        }
        Reason::Unauthorized => {
            if let Some(cloud) = cloud_registry(image.registry()) {
                return format!(
                    "let agents use the kubelet's credential-provider plugin for {cloud}: set agent.credentialProviders of the chart, and give the node a role that may pull; or reference a Secret with registry credentials in spec.imagePullSecrets"
                );
            }
            return format!(
                "reference a Secret with registry credentials in spec.imagePullSecrets, or in the ServiceAccount of spec.serviceAccountName; agents must be allowed to read it: {}",
                secrets_rights(namespace)
            );
        }
        Reason::CredentialsUnavailable => {
            return format!(
                "if a Secret or ServiceAccount is not found, create it in the namespace {namespace}; if the agent may not read it: {}",
                secrets_rights(namespace)
            );
        }
        Reason::ImageNotFound => "push the image, or correct its reference in spec.cacheSpec",
        Reason::PlatformNotFound => {
            let platform = match architecture {
                "" => "the node's platform",
                known => known,
            };
            return format!(
                "publish the image for {platform}, or exclude such nodes with a nodeSelector on kubernetes.io/arch"
            );
        }
        Reason::TooManyRequests => {
            "wait; lower spec.rollout.maxConcurrentNodes to send fewer requests at a time"
        }
        Reason::RegistryError | Reason::ConnectionFailed => {
            "check that the registry is up and that the node can reach it; the pull is retried automatically"
        }
        Reason::RegistryMisconfigured => {
            "configure the registry in the container runtime of the node: its certificate authority, plain HTTP, or its mirrors"
        }
        Reason::DeadlineExceeded => {
            "set a longer deadline, spec.deadline or that of the entry; check how fast the registry answers the node"
        }
        Reason::DigestMismatch | Reason::InvalidImage => {
            "push the image again: the content in the registry is damaged"
        }
        Reason::DiskFull | Reason::ImageFsAboveThreshold | Reason::Evicted => {
            "free space on the node's image file system; the image is then pulled again automatically"
        }
        Reason::InvalidReference => "correct the reference in spec.cacheSpec",
        Reason::RuntimeUnavailable | Reason::RuntimeUnsupported | Reason::StoreUnusable => {
            "check the container runtime of the node"
        }
        _ => "see the message of the runtime",
    };
    advice.to_owned()
}

/// How agents are allowed to read the Secrets and ServiceAccounts of a namespace.
fn secrets_rights(namespace: &str) -> String {
    format!(
        "add {namespace} to the chart value agent.secretNamespaces, or with the plain YAML: kubectl apply -n {namespace} -f deploy/kubefledged-pull-secrets.yaml (docs/install.md, Pull secrets)"
    )
}

/// The answer as a sentence, followed by the evidence.
pub(super) fn answer_text(answer: &Answer, now: Timestamp) -> String {
    let (word, verb, style) = if answer.cached {
        ("yes", "is cached", Style::new().green().bold())
    } else {
        ("no", "is not cached", Style::new().red().bold())
    };
    let sentence = format!(
        "{} {verb} on {}: {}",
        answer.image, answer.node, answer.because
    );
    let mut text = format!("{}: {}\n", style.apply_to(word), on_one_line(&sentence));
    if let Some(message) = &answer.message {
        let _ = writeln!(text, "  message: {}", on_one_line(message));
    }
    for evidence in &answer.evidence {
        let shown = format!(
            "  {} {}: {}",
            evidence.object, evidence.field, evidence.value
        );
        text.push_str(&on_one_line(&shown));
        if let Some(since) = evidence.since {
            let _ = write!(text, ", since {since} ({} ago)", age(since, now));
        }
        text.push('\n');
    }
    if let Some(attempts) = answer.attempts.filter(|attempts| *attempts > 0) {
        let _ = write!(text, "  {}", pluralised(attempts as usize, "attempt"));
        if let Some(next) = answer.next_attempt {
            let left = span(next.as_second().saturating_sub(now.as_second()));
            let _ = write!(text, ", next at {next} (in {left})");
        }
        text.push('\n');
    }
    if let Some(advice) = &answer.advice {
        let _ = writeln!(text, "  what to do: {}", on_one_line(advice));
    }
    text
}
