//! The Jobs and pods of one namespace, or of all.

use std::sync::Arc;

use kube::ResourceExt;

use super::job::ReadJob;
use super::pod::ReadPod;
use super::watched::Watched;

/// Namespaces that are watched together: all of them, or one.
pub(super) struct Scope {
    pub(super) jobs: Watched<ReadJob>,
    pub(super) pods: Watched<ReadPod>,
    /// Whether Jobs and pods were listed.
    pub(super) listed: [bool; 2],
}

impl Scope {
    pub(super) fn new() -> Self {
        Self {
            jobs: Watched::new(),
            pods: Watched::new(),
            listed: [false; 2],
        }
    }

    /// The pod of a Job, whose name begins with the Job's.
    pub(super) fn pod_of(&self, job: &ReadJob) -> Option<Arc<ReadPod>> {
        let name = job.name_any();
        let namespace = job.namespace().unwrap_or_default();
        let from = (namespace.clone(), name.clone());
        let pods = self.pods.known.range(from..);
        let mut pods = pods.take_while(|((of, pod), _)| *of == namespace && pod.starts_with(&name));
        let uid = job.metadata.uid.as_deref();
        let found = pods.find(|(_, pod)| pod.job() == Some(&name) && pod.is_of(&namespace, uid));
        found.map(|(_, pod)| Arc::clone(pod))
    }
}
