//! `/metrics`: what kube-apiserver tells under the same names, as far as this server has it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Api;
use crate::stats::{AnswerKey, Answers};

/// Clock ticks a second in `/proc`: 100 on every Linux platform that Rust has.
const TICKS: f64 = 100.0;

/// Requests since the server was started, by verb and resource, and what this process takes.
///
/// Unlike kube-apiserver's, a watch is counted when it begins and not when it ends.
pub(super) fn metrics(api: &Api) -> String {
    let answers = api.requests.answers();
    let mut text = String::new();
    requests(&mut text, &answers);
    bodies(&mut text, &answers);
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

/// The verb as kube-apiserver counts requests.
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

/// Nothing where there is no `/proc`.
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
