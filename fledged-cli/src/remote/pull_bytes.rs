//! The bytes of running pulls, which agents serve at `/pulls` and the API server passes on (`pods/proxy`).

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use fledged_core::model::{ImageRef, NodeName};
use fledged_kube::request_error::with_causes;
use fledged_operator::agent::{NodePulls, RunningPull, image_hash};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use kube::client::Body;
use serde::Serialize;

use super::agent_pod::{AgentPorts, PodPort};
use super::kubeconfig::Connection;
use crate::output::{on_one_line, pluralised, pulled_bytes};

/// Nodes that are asked in a round.
const NODES_MAX: usize = 100;
/// Agents that are asked at the same time.
const CONCURRENT: usize = 16;
/// Limit for the answer of an agent.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Limit for a round, so that many agents that do not answer hold nothing up.
const ROUND_LIMIT: Duration = Duration::from_secs(5);
/// Largest answer of an agent, in bytes; an agent's is a quarter of it.
const ANSWER_BYTES: usize = 256 * 1024;
/// Characters of an error that are shown.
const ERROR_CHARS: usize = 160;

/// The bytes of a running pull, as `-o json` prints them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PullBytes {
    /// Start of the pull.
    pub(super) started_at: Timestamp,
    /// Received bytes of the layers that were missing.
    pub(super) done_bytes: u64,
    /// Bytes to receive in all.
    pub(super) total_bytes: Option<u64>,
    /// Bytes a second, over the last ten seconds.
    pub(super) bytes_per_second: Option<u64>,
    /// Seconds until everything is received, at this rate.
    pub(super) seconds_left: Option<u64>,
}

impl PullBytes {
    /// The bytes of a pull; `None` if its runtime reports none.
    fn new(pull: &RunningPull) -> Option<Self> {
        let done = pull.done_bytes?;
        let left = pull.total_bytes.and_then(|all| all.checked_sub(done));
        let rate = pull.bytes_per_second.filter(|rate| *rate > 0);
        Some(Self {
            started_at: pull.started_at,
            done_bytes: done,
            total_bytes: pull.total_bytes,
            bytes_per_second: pull.bytes_per_second,
            seconds_left: match (left, rate) {
                (Some(left), Some(rate)) if left > 0 => Some(left.div_ceil(rate)),
                _ => None,
            },
        })
    }

    /// `1.2 GiB of 3.4 GiB, 45.0 MiB/s, 50s left`.
    pub(super) fn text(&self) -> String {
        pulled_bytes(
            self.done_bytes,
            self.total_bytes,
            self.bytes_per_second,
            self.seconds_left,
        )
    }
}

/// The bytes of several pulls together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PullSums {
    pulls: usize,
    done: u64,
    /// `None` once a pull's is not known.
    total: Option<u64>,
    rate: Option<u64>,
    /// Of the pull that takes longest.
    left: Option<u64>,
}

impl PullSums {
    /// The sums of these pulls; `None` without any.
    pub(super) fn of<'a>(pulls: impl IntoIterator<Item = &'a PullBytes>) -> Option<Self> {
        let first = Self {
            total: Some(0),
            ..Self::default()
        };
        let sums = pulls.into_iter().fold(first, |sums, pull| Self {
            pulls: sums.pulls + 1,
            done: sums.done.saturating_add(pull.done_bytes),
            total: sums
                .total
                .zip(pull.total_bytes)
                .map(|(sum, total)| sum.saturating_add(total)),
            rate: match (sums.rate, pull.bytes_per_second) {
                (None, rate) | (rate, None) => rate,
                (Some(sum), Some(rate)) => Some(sum.saturating_add(rate)),
            },
            left: sums.left.max(pull.seconds_left),
        });
        (sums.pulls > 0).then_some(sums)
    }

    /// `2 pulls, 1.2 GiB of 3.4 GiB, 45.0 MiB/s, 50s left`.
    pub(super) fn text(&self) -> String {
        let bytes = pulled_bytes(self.done, self.total, self.rate, self.left);
        format!("{}, {bytes}", pluralised(self.pulls, "pull"))
    }
}

/// What the agents answered in a round.
#[derive(Debug, Clone, Default)]
pub(super) struct PullRound {
    /// By node, and by the hash of the image.
    nodes: BTreeMap<String, BTreeMap<String, PullBytes>>,
    /// Why bytes are missing, in one line.
    pub(super) problem: Option<String>,
}

impl PullRound {
    /// The bytes of the pull of an image on a node.
    pub(super) fn of(&self, node: &str, image: &ImageRef) -> Option<&PullBytes> {
        self.nodes.get(node)?.get(&image_hash(image))
    }

    fn add(&mut self, node: String, pulls: &NodePulls) {
        let pulls = pulls.pulls.iter();
        let pulls = pulls.filter_map(|p| Some((p.image_hash.clone(), PullBytes::new(p)?)));
        self.nodes.insert(node, pulls.collect());
    }
}

/// Why an agent has not answered.
enum Unanswered {
    /// The user may not ask.
    Forbidden(String),
    /// The node has no pod of an agent.
    NoPod,
    /// The request failed.
    Failed(String),
}

/// Asks agents for their running pulls, round by round. Remembers their pods.
pub(super) struct PullSource {
    connection: Connection,
    ports: AgentPorts,
    pods: BTreeMap<String, PodPort>,
    /// Why the user may not ask. Then nothing is asked again.
    forbidden: Option<String>,
}

impl PullSource {
    pub(super) fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            ports: AgentPorts::default(),
            pods: BTreeMap::new(),
            forbidden: None,
        }
    }

    /// The running pulls of these nodes.
    pub(super) async fn round(&mut self, nodes: &BTreeSet<String>) -> PullRound {
        let mut round = PullRound::default();
        if nodes.is_empty() {
            return round;
        }
        if self.forbidden.is_none()
            && let Err(error) = self.ports.find(&self.connection).await
        {
            let why = format!(
                "pods of agents cannot be listed (needs list on pods): {}",
                with_causes(&error)
            );
            round.problem = Some(shortened(&why));
            if matches!(&error, kube::Error::Api(status) if status.code == 403) {
                self.forbidden = Some(why);
            }
            return round;
        }
        if let Some(why) = &self.forbidden {
            round.problem = Some(shortened(why));
            return round;
        }
        let mut missing = BTreeSet::new();
        let mut failed = BTreeMap::new();
        let mut waiting: BTreeSet<String> = nodes.iter().take(NODES_MAX).cloned().collect();
        let (mut pods, mut forbidden) = (Vec::new(), None);
        {
            let mut asked = Vec::new();
            for node in waiting.clone() {
                asked.push(self.ask(node).boxed());
            }
            let mut answers = stream::iter(asked).buffer_unordered(CONCURRENT);
            let mut end = pin!(tokio::time::sleep(ROUND_LIMIT));
            while let Some((node, pod, answer)) = tokio::select! {
                answer = answers.next() => answer,
                () = &mut end => None,
            } {
                waiting.remove(&node);
                // The pod of an agent that has not answered may be another one by now.
                pods.push((node.clone(), pod.filter(|_| answer.is_ok())));
                match answer {
                    Ok(pulls) => round.add(node, &pulls),
                    Err(Unanswered::Forbidden(why)) => {
                        forbidden = Some(why);
                        break;
                    }
                    Err(Unanswered::NoPod) => {
                        missing.insert(node);
                    }
                    Err(Unanswered::Failed(why)) => {
                        failed.insert(node, why);
                    }
                }
            }
        }
        if let Some(why) = forbidden {
            let why = format!("agents cannot be asked (needs get on pods/proxy): {why}");
            round.problem = Some(shortened(&why));
            self.forbidden = Some(why);
            return round;
        }
        for (node, pod) in pods {
            match pod {
                Some(pod) => self.pods.insert(node, pod),
                None => self.pods.remove(&node),
            };
        }
        for node in waiting {
            failed.insert(node, "no answer in time".to_owned());
        }
        round.problem = problem(nodes.len(), &missing, &failed);
        round
    }

    /// Asks the agent of a node.
    async fn ask(&self, node: String) -> (String, Option<PodPort>, Result<NodePulls, Unanswered>) {
        let known = self.pods.get(&node).cloned();
        let pod = match (known, NodeName::new(node.as_str())) {
            (Some(pod), _) => Ok(Some(pod)),
            (None, Ok(name)) => self.ports.of(&name).await,
            (None, Err(_)) => Ok(None),
        };
        match pod {
            Ok(Some(pod)) => {
                let answer = tokio::time::timeout(ANSWER_LIMIT, self.pulls_of(&pod)).await;
                let late = || Err(Unanswered::Failed("no answer in time".to_owned()));
                (node, Some(pod), answer.unwrap_or_else(|_| late()))
            }
            Ok(None) => (node, None, Err(Unanswered::NoPod)),
            Err(error) => (node, None, Err(Unanswered::Failed(error))),
        }
    }

    async fn pulls_of(&self, pod: &PodPort) -> Result<NodePulls, Unanswered> {
        let failed = |why: &dyn std::fmt::Display| Unanswered::Failed(why.to_string());
        let PodPort {
            namespace,
            name,
            port,
        } = pod;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/pulls");
        let request = http::Request::get(path).body(Body::empty());
        let request = request.map_err(|error| failed(&error))?;
        let response = self.connection.client.send(request).await;
        let response = response.map_err(|error| failed(&with_causes(&error)))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| failed(&error))?.to_bytes();
        match parts.status.as_u16() {
            200 => serde_json::from_slice(&body).map_err(|error| failed(&error)),
            403 => Err(Unanswered::Forbidden(message(&body))),
            code => Err(Unanswered::Failed(format!("{code}: {}", message(&body)))),
        }
    }
}

/// The message of a `Status`, or the text itself.
fn message(body: &[u8]) -> String {
    let status = serde_json::from_slice::<serde_json::Value>(body).ok();
    let message = status.and_then(|status| Some(status.get("message")?.as_str()?.to_owned()));
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    message.trim().to_owned()
}

/// Why bytes are missing; `asked` is the number of nodes that pull.
fn problem(
    asked: usize,
    missing: &BTreeSet<String>,
    failed: &BTreeMap<String, String>,
) -> Option<String> {
    let mut parts = Vec::new();
    if let Some((node, why)) = failed.first_key_value() {
        let agents = match failed.len() {
            1 => format!("the agent of {node} does not answer"),
            count => format!("{count} agents do not answer, for example that of {node}"),
        };
        parts.push(format!("{agents}: {why}"));
    }
    if let Some(node) = missing.first() {
        parts.push(match missing.len() {
            1 => format!("{node} has no pod of an agent"),
            count => format!("{count} nodes have no pod of an agent, for example {node}"),
        });
    }
    if let Some(more) = asked.checked_sub(NODES_MAX).filter(|more| *more > 0) {
        parts.push(format!("{more} more nodes pull and are not asked"));
    }
    (!parts.is_empty()).then(|| shortened(&parts.join("; ")))
}

fn shortened(text: &str) -> String {
    let text = on_one_line(text);
    console::truncate_str(&text, ERROR_CHARS, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_pull(done: Option<u64>, total: Option<u64>, rate: Option<u64>) -> RunningPull {
        serde_json::from_value(
            json!({ "imageHash": "x", "startedAt": "2026-01-01T00:00:00Z",
            "doneBytes": done, "totalBytes": total, "bytesPerSecond": rate }),
        )
        .unwrap()
    }

    fn mk_bytes(done: u64, total: Option<u64>, rate: Option<u64>) -> PullBytes {
        PullBytes::new(&mk_pull(Some(done), total, rate)).unwrap()
    }

    #[test]
    fn the_time_left_follows_from_the_rate() {
        let left = |done, total, rate| mk_bytes(done, total, rate).seconds_left;
        assert_eq!(left(100, Some(1_000), Some(100)), Some(9));
        assert_eq!(left(0, Some(101), Some(100)), Some(2), "rounded up");
        assert_eq!(left(100, Some(1_000), Some(0)), None, "it is stalled");
        assert_eq!(left(100, Some(1_000), None), None);
        assert_eq!(left(100, None, Some(100)), None);
        assert_eq!(left(1_000, Some(1_000), Some(100)), None, "it is unpacked");
        assert_eq!(left(1_001, Some(1_000), Some(100)), None, "a wrong total");
        assert_eq!(PullBytes::new(&mk_pull(None, None, None)), None);
    }

    #[test]
    fn bytes_are_shown_as_far_as_they_are_known() {
        const MIB: u64 = 1024 * 1024;
        let text = |done, total, rate| mk_bytes(done, total, rate).text();
        let all = text(20 * MIB, Some(80 * MIB), Some(MIB));
        assert_eq!(all, "20.0 MiB of 80.0 MiB, 1.0 MiB/s, 60s left");
        assert_eq!(text(20 * MIB, None, Some(MIB)), "20.0 MiB, 1.0 MiB/s");
        assert_eq!(text(20 * MIB, None, None), "20.0 MiB");
    }

    #[test]
    fn sums_have_the_longest_time_and_no_partial_total() {
        let pulls = [
            mk_bytes(10, Some(110), Some(10)),
            mk_bytes(20, Some(40), Some(1)),
        ];
        let sums = PullSums::of(&pulls).unwrap();
        assert_eq!(sums.text(), "2 pulls, 30 B of 150 B, 11 B/s, 20s left");
        let unknown = [pulls[0].clone(), mk_bytes(5, None, None)];
        let sums = PullSums::of(&unknown).unwrap();
        assert_eq!(sums.text(), "2 pulls, 15 B, 10 B/s, 10s left");
        assert_eq!(PullSums::of(&[]), None);
    }

    #[test]
    fn one_line_says_why_bytes_are_missing() {
        let missing = BTreeSet::from(["b", "c"].map(str::to_owned));
        let failed = BTreeMap::from(
            [("a", "503: connection\nrefused")].map(|(a, b)| (a.to_owned(), b.to_owned())),
        );
        let text = problem(102, &missing, &failed).unwrap();
        assert_eq!(
            text,
            "the agent of a does not answer: 503: connection\\nrefused; 2 nodes have no pod of an agent, \
             for example b; 2 more nodes pull and are not asked"
        );
        assert_eq!(problem(100, &BTreeSet::new(), &BTreeMap::new()), None);
        assert_eq!(shortened(&"x".repeat(500)).chars().count(), ERROR_CHARS);
    }

    #[test]
    fn an_answer_is_matched_by_the_hash() {
        let image: ImageRef = "nginx".parse().unwrap();
        let pulls = json!({ "node": "a", "pulls": [{ "imageHash": image_hash(&image),
            "startedAt": "2026-01-01T00:00:00Z", "doneBytes": 7 }] });
        let mut round = PullRound::default();
        round.add("a".to_owned(), &serde_json::from_value(pulls).unwrap());
        let same = "docker.io/library/nginx:latest".parse().unwrap();
        assert_eq!(round.of("a", &same).map(|bytes| bytes.done_bytes), Some(7));
        assert_eq!(round.of("b", &same), None);
        assert_eq!(round.of("a", &"app:1".parse().unwrap()), None);
    }
}
