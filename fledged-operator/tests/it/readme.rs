//! The reference page lists every flag and every metric.
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use fledged_core::model::NodeName;
use fledged_core::port::MockImageRuntime;
use fledged_operator::agent::{Agent, AgentConfig};
use fledged_operator::controller::{Controller, ControllerConfig};
use fledged_operator::jobs::{JobDriver, JobOptions};
use fledged_webhook::{Webhook, WebhookConfig};
use kube::{Client, Config};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

const PAGE: &str = include_str!("../../../docs/reference.md");

/// Returns all words of a text that begin with `start` and continue with these characters.
fn words(text: &str, start: &str, continues: impl Fn(char) -> bool) -> BTreeSet<String> {
    let found = text.match_indices(start).map(|(at, _)| {
        let rest = &text[at + start.len()..];
        let end = rest.find(|c| !continues(c)).unwrap_or(rest.len());
        format!("{start}{}", &rest[..end])
    });
    found.filter(|word| word != start).collect()
}

#[test]
fn every_flag_is_listed() {
    let flags = |text: &str| words(text, "--", |c| c.is_ascii_lowercase() || c == '-');
    let mut known = BTreeSet::new();
    for part in ["controller", "agent", "webhook"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fledged-operator"));
        let help = command.args([part, "--help"]).output().unwrap();
        known.extend(flags(&String::from_utf8(help.stdout).unwrap()));
    }
    known.remove("--help");
    assert!(known.len() > 15, "{known:?}");
    // Dashes alone are the separator rows of a table.
    let mut listed = flags(PAGE);
    listed.retain(|flag| !flag.trim_matches('-').is_empty());
    assert_eq!(listed, known);
}

#[tokio::test]
async fn every_metric_is_listed() {
    fledged_cri::registry::ensure_tls_provider();
    let nowhere = Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = Client::try_from(nowhere).unwrap();
    let mut known = BTreeSet::new();
    let mut add = |registry: &Registry| {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        for line in text.lines() {
            let mut words = line
                .strip_prefix("# TYPE ")
                .into_iter()
                .flat_map(|l| l.split(' '));
            if let (Some(name), Some(kind)) = (words.next(), words.next()) {
                let suffix = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                known.insert(format!("{name}{suffix}"));
            }
        }
    };
    let mut registry = Registry::default();
    Controller::new(client.clone(), ControllerConfig::default()).register_metrics(&mut registry);
    add(&registry);
    let mut registry = Registry::default();
    let options = JobOptions::new("ours:1".parse().unwrap(), "kube-fledged");
    JobDriver::new(client.clone(), options).register_metrics(&mut registry);
    add(&registry);
    let mut registry = Registry::default();
    Webhook::new(client.clone(), WebhookConfig::default()).register_metrics(&mut registry);
    add(&registry);
    let mut registry = Registry::default();
    let (node, runtime) = (
        NodeName::new("a").unwrap(),
        Arc::new(MockImageRuntime::new()),
    );
    Agent::new(client, node, runtime, AgentConfig::default()).register_metrics(&mut registry);
    add(&registry);
    let name = |c: char| c.is_ascii_lowercase() || c == '_';
    let listed: BTreeSet<String> = words(PAGE, "| `fledged_", name)
        .iter()
        .map(|word| word.trim_start_matches("| `").to_owned())
        .collect();
    // A metric with labels appears once it is counted, so the page lists more metrics.
    assert!(known.len() >= 10, "{known:?}");
    let missing: Vec<&String> = known.difference(&listed).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
}
