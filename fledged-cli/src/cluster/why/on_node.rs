//! What the node's record tells of an image that is meant for it.

use fledged_core::error::Reason;
use fledged_core::model::{DesiredState, ImageRef};
use fledged_core::planner::CacheFacts;
use jiff::Timestamp;
use serde_json::Value;

use super::advice::advice;
use super::answer::{Answer, WhyReason};
use super::explain::Situation;
use crate::cluster::overview::status_of;
use crate::cluster::progress::current;
use crate::cluster::record::{NodeRecord, State, Unreachable};

/// The last question: how far the node itself is.
pub(super) fn explain(asked: &Situation<'_>, facts: &CacheFacts) -> Answer {
    let record = asked.record.map(NodeRecord::new).unwrap_or_default();
    let entry = record.assigned.get(asked.image);
    let Some(entry) = entry.filter(|entry| entry.state == DesiredState::Present) else {
        return unassigned(asked, facts);
    };
    let state = record.state(asked.image, false);
    if state == State::Cached && !record.verifies(asked.image) {
        return cached(asked, &record);
    }
    if let Some(Unreachable::AgentSilent { answered, since }) = record.silence(asked.now) {
        return silent(asked, answered, Some(since));
    }
    let report = record.reported.get(asked.image);
    match (state, report) {
        (State::Cached, _) => cached(asked, &record),
        (State::Failed, Some(_)) => failing(
            asked,
            &record,
            WhyReason::Failed,
            "its last round of pulls failed",
        ),
        (State::BackingOff, Some(_)) => failing(
            asked,
            &record,
            WhyReason::BackingOff,
            "attempts to pull it fail so far",
        ),
        (State::Pulling, Some(report)) => {
            let again = report.revision.is_some_and(|r| r < entry.revision);
            let because = match again && report.digest.is_some() {
                true => "it is there, and is being pulled again for a refresh",
                false => "it is being pulled",
            };
            let answer = said(asked, &record, WhyReason::Pulling, because);
            answer.advise(format!("wait: {} --for=cached", asked.command("wait")))
        }
        _ if !record.is_answered() => {
            let answered = record.answered;
            let answer = unanswered(
                asked,
                WhyReason::Waiting,
                "the node was told of it just now",
                answered,
            );
            answer.since(record.written_at)
        }
        _ => {
            let because = "other pulls of the node come first";
            said(asked, &record, WhyReason::Waiting, because)
        }
    }
}

fn cached(asked: &Situation<'_>, record: &NodeRecord) -> Answer {
    let report = record.reported.get(asked.image);
    let digest = report.and_then(|report| report.digest.as_ref().map(ToString::to_string));
    let mut because = match &digest {
        Some(digest) => format!("the node holds it, {digest}"),
        None => "the node holds it".to_owned(),
    };
    if record.verifies(asked.image) {
        because.push_str(", as far as is known; it looks again for a refresh");
    }
    let mut answer = said(asked, record, WhyReason::Cached, &because);
    answer.digest = digest;
    // Nothing is left to be tried.
    answer.next_attempt = None;
    answer
}

/// The cache means the node, and its record does not name the image.
fn unassigned(asked: &Situation<'_>, facts: &CacheFacts) -> Answer {
    let cache = asked.cache_object();
    let Some(status) = current(asked.cache) else {
        let seen = status_of(asked.cache).and_then(|status| status.observed_generation);
        let seen = seen.map_or_else(|| "none".to_owned(), |seen| seen.to_string());
        let newest = facts.generation;
        let answer = asked.answer(
            WhyReason::NotTakenUp,
            "no controller has looked at the ImageCache since it was made or edited",
        );
        let answer = answer
            .with(cache.clone(), "metadata.generation", newest.to_string())
            .with(cache, "status.observedGeneration", seen);
        return answer
            .advise("see that a controller runs and leads: `fledged-operator controller`");
    };
    let counts = status.counts.unwrap_or_default();
    let limit = facts.spec.as_ref().ok();
    let limit = limit.and_then(|spec| spec.rollout.max_concurrent_nodes.as_ref());
    let answer = asked.answer(
        WhyReason::NotAssigned,
        "the node waits for its turn in the rollout: as many others as may pull at once do",
    );
    let answer = answer.with(asked.record_object(), "spec.images", "does not name it");
    let answer = answer.with(
        cache.clone(),
        "status.counts.pulling",
        counts.pulling.to_string(),
    );
    let answer = match limit {
        Some(limit) => answer.with(cache, "spec.rollout.maxConcurrentNodes", limit.to_string()),
        None => answer,
    };
    answer.advise(
        "wait, or raise spec.rollout.maxConcurrentNodes or the controller's --max-concurrent-nodes",
    )
}

/// An image that this cache does not bring, but others do: that it is there comes first.
pub(super) fn for_others(asked: &Situation<'_>, mut answer: Answer) -> Answer {
    use WhyReason::{
        CacheDeleting, CachePurged, ImageNotInCache, InvalidSpec, NodeNotSelected, NodeTainted,
    };
    let not_ours = matches!(
        answer.reason,
        CacheDeleting | CachePurged | ImageNotInCache | InvalidSpec | NodeNotSelected | NodeTainted
    );
    let record = asked.record.map(NodeRecord::new).unwrap_or_default();
    let ours = asked.cache.id();
    let wanted = record.assigned.get(asked.image).is_some_and(|entry| {
        let others = entry.wanted_by.iter().any(|id| *id != ours);
        entry.state == DesiredState::Present && others
    });
    if !not_ours || !wanted || record.state(asked.image, false) != State::Cached {
        return answer;
    }
    if answer.reason == CachePurged {
        answer = with_entry(asked, answer);
        let refresh = asked.command("refresh");
        answer.advice = Some(format!("{refresh} makes the ImageCache want it again"));
    }
    answer.cached = true;
    answer.because = format!(
        "the node holds it for other ImageCaches; {}",
        answer.because
    );
    let report = record.reported.get(asked.image);
    answer.digest = report.and_then(|report| report.digest.as_ref().map(ToString::to_string));
    let answer = answer.with(asked.record_object(), phase_field(asked), "Cached");
    answer.since(report.and_then(|report| report.finished_at))
}

/// The cache is purged: nothing of it is to be there.
pub(super) fn purged(asked: &Situation<'_>) -> Answer {
    let record = asked.record.map(NodeRecord::new).unwrap_or_default();
    let refresh = format!("{} brings it back", asked.command("refresh"));
    if record.state(asked.image, true) == State::InUse {
        let because = "the ImageCache is purged; the image is there only because something uses it";
        return said(asked, &record, WhyReason::KeptInUse, because).advise(refresh);
    }
    let at = current(asked.cache).map(|status| status.start_time.0);
    let answer = asked.answer(WhyReason::CachePurged, "the ImageCache is purged");
    let answer = answer.with(asked.cache_object(), "status.purged", "true");
    answer.since(at).advise(refresh)
}

/// What the node is told of an image that the cache does not name: another may want it there, or it is on
/// its way out.
pub(super) fn with_entry(asked: &Situation<'_>, answer: Answer) -> Answer {
    let record = asked.record.map(NodeRecord::new).unwrap_or_default();
    let Some(entry) = record.assigned.get(asked.image) else {
        return answer;
    };
    let value = match entry.state {
        DesiredState::Present => {
            let caches: Vec<String> = entry.wanted_by.iter().map(ToString::to_string).collect();
            format!("wanted by {}", caches.join(", "))
        }
        DesiredState::Absent => match record.state(asked.image, true) {
            State::InUse => "to be removed, but something uses it".to_owned(),
            State::Removed => "removed".to_owned(),
            _ => "to be removed".to_owned(),
        },
    };
    answer.with(asked.record_object(), "spec.images", value)
}

/// What the agent last said of the image, of a node that can't be asked now.
pub(super) fn with_last_word(asked: &Situation<'_>, answer: Answer) -> Answer {
    let record = asked.record.map(NodeRecord::new).unwrap_or_default();
    let Some(report) = record.reported.get(asked.image) else {
        return answer;
    };
    let answer = answer.with(
        asked.record_object(),
        phase_field(asked),
        format!("{} before", report.phase),
    );
    answer.since(report.finished_at.or(report.started_at))
}

/// The agent does not answer.
pub(super) fn silent(
    asked: &Situation<'_>,
    answered: Option<u64>,
    since: Option<Timestamp>,
) -> Answer {
    let because = match answered {
        None => "the node's agent has never said anything",
        Some(_) => "the node's agent has stopped to say anything",
    };
    let answer = unanswered(asked, WhyReason::AgentSilent, because, answered).since(since);
    answer.advise("see that `fledged-operator agent` runs on the node, and read its log")
}

fn unanswered(
    asked: &Situation<'_>,
    reason: WhyReason,
    because: &str,
    answered: Option<u64>,
) -> Answer {
    let generation = asked.record.map_or(0, |record| record.generation());
    let answered = answered.map_or_else(|| "none".to_owned(), |answered| answered.to_string());
    let object = asked.record_object();
    let answer = asked.answer(reason, because);
    answer
        .with(
            object.clone(),
            "metadata.generation",
            generation.to_string(),
        )
        .with(object, "status.observedGeneration", answered)
}

fn failing(asked: &Situation<'_>, record: &NodeRecord, reason: WhyReason, words: &str) -> Answer {
    let report = record.reported.get(asked.image);
    let failure = report.and_then(|report| report.reason);
    let failure = failure.unwrap_or(Reason::Unknown);
    let mut answer = said(asked, record, reason, &format!("{words}: {failure}"));
    answer.failure = Some(failure.to_string());
    let architecture = asked.node.map(|node| {
        let facts = node.clone().into_facts(asked.node_name.clone());
        facts.architecture
    });
    let mut advice = advice(failure, &architecture.unwrap_or_default());
    if reason == WhyReason::Failed {
        advice.push_str(&format!(
            "; {} tries again at once",
            asked.command("refresh")
        ));
    }
    answer.advise(advice)
}

/// What the agent says of the image, with where that stands.
fn said(asked: &Situation<'_>, record: &NodeRecord, reason: WhyReason, because: &str) -> Answer {
    let answer = asked.answer(reason, because);
    let Some(report) = record.reported.get(asked.image) else {
        return answer.with(asked.record_object(), "status.images", "does not name it");
    };
    let since = match reason {
        WhyReason::Pulling | WhyReason::BackingOff => report.started_at,
        _ => report.finished_at.or(report.started_at),
    };
    let mut answer = answer
        .with(
            asked.record_object(),
            phase_field(asked),
            report.phase.as_str(),
        )
        .since(since);
    answer.message.clone_from(&report.message);
    answer.attempts = Some(report.attempts);
    answer.next_attempt = report.next_attempt_at;
    answer
}

fn phase_field(asked: &Situation<'_>) -> String {
    let record = asked.record;
    match record.and_then(|record| place(&record.status, asked.image)) {
        Some(at) => format!("status.images[{at}].phase"),
        None => "status.images".to_owned(),
    }
}

/// Where an image stands in a list of the record.
fn place(status: &Value, image: &ImageRef) -> Option<usize> {
    let images = status.get("images")?.as_array()?;
    images
        .iter()
        .position(|entry| entry.get("image").and_then(Value::as_str) == Some(image.as_str()))
}
