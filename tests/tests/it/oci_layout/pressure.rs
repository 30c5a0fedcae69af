//! Pulls while tasks of the machine wait for I/O or memory.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::NodeName;
use fledged_cri::oci::{OciLayoutOptions, OciLayoutRuntime};
use fledged_cri::{PullSlowdowns, SlowedBy};
use fledged_operator::agent::{Agent, AgentConfig};
use fledged_tests::{ImageBuilder, Registry, require};
use kube::{Client, Config};
use prometheus_client::encoding::text::encode;
use tempfile::TempDir;

use crate::oci_layout::support::pull;

/// The metrics of an agent.
fn metrics(runtime: OciLayoutRuntime, slowdowns: PullSlowdowns) -> String {
    let nowhere = Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = Client::try_from(nowhere).unwrap();
    let node = NodeName::new("a").unwrap();
    let mut config = AgentConfig::default();
    config.slowdowns = slowdowns;
    let mut registry = prometheus_client::registry::Registry::default();
    Agent::new(client, node, Arc::new(runtime), config).register_metrics(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

#[tokio::test]
async fn a_pull_slows_down_under_pressure_and_the_metrics_have_the_reason() {
    if !require(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let image = ImageBuilder::new()
        .random_layer("data", 1, 600_000)
        .push(&registry, "team/app", "1");
    for (io, memory, by) in [
        (Some("87.50"), Some("0.00"), Some(SlowedBy::Io)),
        (Some("12.50"), Some("25.00"), Some(SlowedBy::Memory)),
        (Some("12.50"), Some("0.00"), None),
        // A kernel without pressure stall information.
        (None, None, None),
    ] {
        let (root, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let pressure = root.path().join("proc/pressure");
        fs::create_dir_all(&pressure).unwrap();
        for (resource, share) in [("io", io), ("memory", memory)] {
            if let Some(share) = share {
                let text = format!("some avg10={share} avg60=0.00 avg300=0.00 total=1\n");
                fs::write(pressure.join(resource), text).unwrap();
            }
        }
        let mut options = OciLayoutOptions::default();
        options.pressure.root = root.path().to_owned();
        let slowdowns = options.slowdowns.clone();
        let runtime = OciLayoutRuntime::open(folder.path(), options).unwrap();
        pull(&runtime, &image.reference).await.unwrap();
        for reason in SlowedBy::ALL {
            let waited = slowdowns.time(reason) > Duration::ZERO;
            assert_eq!(waited, Some(reason) == by, "{reason:?} of {by:?}");
        }
        let text = metrics(runtime, slowdowns);
        let found = |start: &str| {
            let mut lines = text.lines();
            let line = lines.find(|line| line.starts_with(start));
            line.map(|line| line[start.len()..].trim().to_owned())
        };
        for reason in SlowedBy::ALL.map(SlowedBy::as_str) {
            let name = format!("fledged_agent_pull_slowed_seconds_total{{reason=\"{reason}\"}}");
            let slowed = found(&name).unwrap() != "0.0";
            assert_eq!(slowed, by.map(SlowedBy::as_str) == Some(reason), "{text}");
        }
        for (resource, share) in [("io", io), ("memory", memory)] {
            let name = format!("fledged_agent_pressure_ratio{{resource=\"{resource}\"}}");
            let share = share.map(|share| share.parse::<f64>().unwrap() / 100.0);
            assert_eq!(found(&name).map(|value| value.parse().unwrap()), share);
        }
    }
}
