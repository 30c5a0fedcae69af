//! From what was read to the answer: the first thing that keeps the image from the node.

use fledged_core::model::{ImageRef, NodeName};
use fledged_core::planner::CacheFacts;
use fledged_operator::controller::ReadNode;
use fledged_operator::crd::{ReadCache, ReadNodeCache};
use jiff::Timestamp;

use super::answer::{Answer, WhyReason};
use super::on_node;
use super::selection::{Mismatch, groups_of, repelling};
use crate::cluster::progress::current;
use crate::cluster::record::{Unreachable, unreachable};

/// What was asked, and the objects that tell of it.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// What is typed to run this program.
    pub program: &'a str,
    /// The cache.
    pub cache: &'a ReadCache,
    /// The node's name.
    pub node_name: &'a NodeName,
    /// The Node, if there is one.
    pub node: Option<&'a ReadNode>,
    /// The node's NodeImageCache, if there is one.
    pub record: Option<&'a ReadNodeCache>,
    /// The image.
    pub image: &'a ImageRef,
    /// The time.
    pub now: Timestamp,
}

impl Situation<'_> {
    pub(super) fn answer(&self, reason: WhyReason, because: impl Into<String>) -> Answer {
        let id = self.cache.id();
        Answer {
            namespace: id.namespace,
            name: id.name,
            node: self.node_name.to_string(),
            image: self.image.to_string(),
            cached: reason == WhyReason::Cached,
            reason,
            because: because.into(),
            evidence: Vec::new(),
            failure: None,
            message: None,
            attempts: None,
            next_attempt: None,
            digest: None,
            advice: None,
        }
    }

    pub(super) fn cache_object(&self) -> String {
        format!("ImageCache {}", self.cache.id())
    }

    pub(super) fn node_object(&self) -> String {
        format!("Node {}", self.node_name)
    }

    pub(super) fn record_object(&self) -> String {
        format!("NodeImageCache {}", self.node_name)
    }

    /// A command about the cache, as it is typed.
    pub(super) fn command(&self, command: &str) -> String {
        let id = self.cache.id();
        format!("{} {command} {} -n {}", self.program, id.name, id.namespace)
    }
}

/// Why the image is cached on the node, or not.
#[must_use]
pub fn explain(situation: &Situation<'_>) -> Answer {
    let facts = situation.cache.clone().into_facts();
    let answer = by_cache(situation, &facts)
        .or_else(|| by_node(situation, &facts))
        .unwrap_or_else(|| on_node::explain(situation, &facts));
    on_node::for_others(situation, answer)
}

/// What the cache alone tells.
fn by_cache(asked: &Situation<'_>, facts: &CacheFacts) -> Option<Answer> {
    let cache = asked.cache_object();
    let spec = match &facts.spec {
        Ok(spec) => spec,
        Err(invalid) => {
            let mut answer = asked.answer(
                WhyReason::InvalidSpec,
                "the spec of the ImageCache is invalid, so nobody knows what it wants",
            );
            for field in &invalid.fields {
                let value = format!("{:?}: {}", field.value, field.problem);
                answer = answer.with(cache.clone(), field.field.clone(), value);
            }
            return Some(answer.advise("correct the fields that are named"));
        }
    };
    if groups_of(spec, asked.image).next().is_none() {
        let images = spec.groups.iter().flat_map(|group| &group.images);
        let similar = images.filter(|known| known.repository() == asked.image.repository());
        let similar: Vec<String> = similar.map(ToString::to_string).collect();
        let count = spec.groups.iter().map(|g| g.images.len()).sum::<usize>();
        let counted = crate::output::pluralised(count, "image");
        let (value, advice) = match similar.is_empty() {
            true => (counted, "add it to spec.cacheSpec".to_owned()),
            false => (
                similar.join(", "),
                "ask for one of these, or add it to spec.cacheSpec".to_owned(),
            ),
        };
        let answer = asked.answer(
            WhyReason::ImageNotInCache,
            format!("the ImageCache does not name {}", asked.image.as_str()),
        );
        let answer = answer.with(cache, "spec.cacheSpec[*].images", value);
        return Some(on_node::with_entry(asked, answer).advise(advice));
    }
    if facts.deleting {
        let at = asked.cache.metadata.deletion_timestamp.as_ref();
        let answer = asked.answer(WhyReason::CacheDeleting, "the ImageCache is being deleted");
        let answer = answer.with(cache, "metadata.deletionTimestamp", "set");
        return Some(answer.since(at.map(|at| at.0)));
    }
    None
}

/// What the Node tells of whether it is meant, and can act.
fn by_node(asked: &Situation<'_>, facts: &CacheFacts) -> Option<Answer> {
    let (cache, object) = (asked.cache_object(), asked.node_object());
    let Some(node) = asked.node else {
        let answer = asked.answer(WhyReason::NodeNotFound, "the cluster has no such node");
        let answer = answer.with(object, "metadata.name", "not found");
        return Some(answer.advise("`kubectl get nodes` lists those there are"));
    };
    let spec = facts.spec.as_ref().ok()?;
    let node_facts = node.clone().into_facts(asked.node_name.clone());
    let groups = groups_of(spec, asked.image);
    let selected: Vec<_> = groups
        .clone()
        .filter(|(_, group)| group.selects(&node_facts))
        .collect();
    if selected.is_empty() {
        let mut answer = asked.answer(WhyReason::NodeNotSelected, "");
        let mut wants = Vec::new();
        for (at, group) in groups {
            let place = format!("spec.cacheSpec[{at}]");
            match Mismatch::of(group, &node_facts) {
                Some(Mismatch::Label { key, wanted, found }) => {
                    let has = match &found {
                        Some(value) => format!("has {key}={value}"),
                        None => format!("has no label {key}"),
                    };
                    wants.push(format!("{key}={wanted}, and the node {has}"));
                    let found = found.unwrap_or_else(|| "none".to_owned());
                    answer = answer
                        .with(
                            cache.clone(),
                            format!("{place}.nodeSelector[{key}]"),
                            wanted,
                        )
                        .with(object.clone(), format!("metadata.labels[{key}]"), found);
                }
                _ => {
                    wants.push("labels by its nodeAffinity that the node does not have".to_owned());
                    answer =
                        answer.with(cache.clone(), format!("{place}.nodeAffinity"), "no match");
                }
            }
        }
        answer.because = format!(
            "the ImageCache does not mean the node: it wants {}",
            wants.join("; or it wants ")
        );
        return Some(answer.advise("label the node, or change the selector"));
    }
    let repelled = selected
        .iter()
        .map(|(at, group)| repelling(group, &node_facts).map(|taint| (at, taint)));
    if let Some(Some((at, taint))) = repelled.clone().next()
        && repelled.clone().all(|taint| taint.is_some())
    {
        let shown = match taint.value.as_str() {
            "" => format!("{}:{}", taint.key, taint.effect),
            value => format!("{}={value}:{}", taint.key, taint.effect),
        };
        let answer = asked.answer(
            WhyReason::NodeTainted,
            format!("the node has the taint {shown}, which the ImageCache does not tolerate"),
        );
        let answer = answer.with(object, "spec.taints", shown).with(
            cache,
            format!("spec.cacheSpec[{at}].tolerations"),
            "no match",
        );
        return Some(answer.advise(
            "add a toleration, or leave tolerations out altogether, which tolerates every taint",
        ));
    }
    let purged = facts.status.as_ref().is_some_and(|status| status.purged);
    if purged && current(asked.cache).is_some() {
        return Some(on_node::purged(asked));
    }
    unreachable(node, asked.node_name).map(|why| cannot_act(asked, &why))
}

/// The Node can't act, whatever is asked of it.
fn cannot_act(asked: &Situation<'_>, why: &Unreachable) -> Answer {
    let object = asked.node_object();
    match why {
        Unreachable::NotLinux(os) => {
            let because = format!("the node runs {os}, and only Linux nodes hold images");
            let answer = asked.answer(WhyReason::NodeNotLinux, because);
            let answer = answer.with(object, "status.nodeInfo.operatingSystem", os.clone());
            answer.advise(
                "keep the ImageCache to Linux nodes with the nodeSelector kubernetes.io/os: linux",
            )
        }
        Unreachable::Leaving(taint) => {
            let because = "the node is about to be deleted: what is pulled there is pulled in vain";
            let answer = asked.answer(WhyReason::NodeLeaving, because);
            match taint {
                Some(taint) => answer.with(object, "spec.taints", taint.clone()),
                None => answer.with(object, "metadata.deletionTimestamp", "set"),
            }
        }
        Unreachable::NotReady {
            status,
            reason,
            since,
        } => {
            let value = match reason.as_str() {
                "" => status.clone(),
                reason => format!("{status} ({reason})"),
            };
            let because = "the node is not Ready; it is served as soon as it is";
            let answer = asked.answer(WhyReason::NodeNotReady, because);
            let answer = answer.with(object, "status.conditions[Ready]", value);
            let answer = on_node::with_last_word(asked, answer.since(*since));
            answer.advise("look at the node's kubelet")
        }
        Unreachable::AgentSilent { answered, since } => {
            on_node::silent(asked, *answered, Some(*since))
        }
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
