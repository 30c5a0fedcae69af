//! Counts of requests, and `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A kind of request, as requests are counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct RequestKey {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `apply` (server-side apply), `delete` or
    /// `deletecollection`; otherwise `other`.
    pub verb: String,
    /// The API group; empty for the core group and for paths that are not resources.
    pub group: String,
    /// The plural name; empty for paths that are not resources.
    pub resource: String,
    /// The subresource; empty for the object itself.
    pub subresource: String,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// The field manager of a write: the one named, or the program in the user agent. Empty for reads.
    pub field_manager: String,
}

impl RequestKey {
    /// Whether the request is a write.
    pub fn is_write(&self) -> bool {
        matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "apply" | "delete" | "deletecollection"
        )
    }
}

/// A kind of response, as responses are counted for `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AnswerKey {
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) verb: String,
    pub(crate) code: u16,
}

/// The count of requests of one kind, and the bytes of their bodies.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answers {
    pub(crate) count: u64,
    pub(crate) body_bytes: u64,
}

/// Counts of requests.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    made: Mutex<BTreeMap<RequestKey, u64>>,
    answered: Mutex<BTreeMap<AnswerKey, Answers>>,
}

impl Requests {
    pub(crate) fn count(&self, key: RequestKey) {
        *lock(&self.made).entry(key).or_default() += 1;
    }

    /// Counts a response, and the bytes of the body of its request.
    pub(crate) fn answered(&self, key: AnswerKey, body_bytes: usize) {
        let mut answered = lock(&self.answered);
        let answers = answered.entry(key).or_default();
        answers.count += 1;
        answers.body_bytes += body_bytes as u64;
    }

    pub(crate) fn all(&self) -> BTreeMap<RequestKey, u64> {
        lock(&self.made).clone()
    }

    /// The responses since the start; [`Self::reset`] does not change them.
    pub(crate) fn answers(&self) -> BTreeMap<AnswerKey, Answers> {
        lock(&self.answered).clone()
    }

    pub(crate) fn reset(&self) {
        lock(&self.made).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clock ticks a second in `/proc`: 100 on every Linux platform that Rust has.
const TICKS: f64 = 100.0;

/// The metrics page: requests since the start by verb and resource, processor time and memory of the process.
///
/// A watch is counted when it begins; kube-apiserver counts it when it ends.
pub(crate) fn metrics(answers: &BTreeMap<AnswerKey, Answers>) -> String {
    let mut text = String::new();
    requests(&mut text, answers);
    bodies(&mut text, answers);
    process(&mut text);
    text
}

fn header(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn requests(text: &mut String, answers: &BTreeMap<AnswerKey, Answers>) {
    let name = "apiserver_request_total";
    header(
        text,
        name,
        "counter",
        "Requests by verb, resource and code.",
    );
    for (key, answers) in answers {
        let verb = verb(&key.verb);
        let _ = writeln!(
            text,
            "{name}{{code=\"{}\",group=\"{}\",resource=\"{}\",subresource=\"{}\",verb=\"{verb}\"}} {}",
            key.code, key.group, key.resource, key.subresource, answers.count
        );
    }
}

/// The verb in the form of kube-apiserver's metrics.
fn verb(verb: &str) -> String {
    match verb {
        "create" => "POST".to_owned(),
        "update" => "PUT".to_owned(),
        other => other.to_uppercase(),
    }
}

fn bodies(text: &mut String, answers: &BTreeMap<AnswerKey, Answers>) {
    let mut sums: BTreeMap<(&str, &str, &str), Answers> = BTreeMap::new();
    for (key, answers) in answers {
        let verb = match key.verb.as_str() {
            "apply" => "patch",
            verb @ ("create" | "update" | "patch" | "delete") => verb,
            _ => continue,
        };
        let sum = sums.entry((&key.group, &key.resource, verb)).or_default();
        sum.count += answers.count;
        sum.body_bytes += answers.body_bytes;
    }
    let name = "apiserver_request_body_size_bytes";
    header(text, name, "summary", "Bytes of the bodies of requests.");
    for ((group, resource, verb), sum) in sums {
        let labels = format!("{{group=\"{group}\",resource=\"{resource}\",verb=\"{verb}\"}}");
        let _ = writeln!(text, "{name}_sum{labels} {}", sum.body_bytes);
        let _ = writeln!(text, "{name}_count{labels} {}", sum.count);
    }
}

/// Omitted where there is no `/proc`.
fn process(text: &mut String) {
    if let Some(seconds) = cpu_seconds() {
        let name = "process_cpu_seconds_total";
        header(
            text,
            name,
            "counter",
            "Processor time of the process, in seconds.",
        );
        let _ = writeln!(text, "{name} {seconds}");
    }
    if let Some(bytes) = resident_bytes() {
        let name = "process_resident_memory_bytes";
        header(text, name, "gauge", "Resident memory of the process.");
        let _ = writeln!(text, "{name} {bytes}");
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Fields after the name, which may hold blanks: user and system time are the 14th and 15th.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11);
    let mut next = || ticks.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS)
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let resident = lines.find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = resident.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
