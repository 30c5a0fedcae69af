//! This machine as a node: its name and its labels.

use fledged_core::model::{Assignment, InvalidNodeName, NodeFacts, NodeName};
use fledged_cri::registry::Platform;

use crate::args::NodeArgs;
use crate::command_result::{CommandError, Exit};
use crate::output::Terminal;

/// The host name is not a valid node name, and `--node-name` was not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this machine's host name is not a valid node name: {0}; set the node's name with --node-name"
)]
pub(crate) struct UnusableHostName(#[source] InvalidNodeName);

impl From<UnusableHostName> for CommandError {
    fn from(error: UnusableHostName) -> Self {
        Self::part(Exit::BadInput, error)
    }
}

/// This node. Its labels are those a kubelet sets, and those of the arguments, which take precedence.
///
/// # Errors
///
/// [`UnusableHostName`].
pub(crate) fn node_facts(
    args: &NodeArgs,
    platform: Option<&Platform>,
) -> Result<NodeFacts, UnusableHostName> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        // The kubelet also converts the host name to lower case.
        None => NodeName::new(host_name().to_lowercase()).map_err(UnusableHostName)?,
    };
    let mut facts = NodeFacts::new(name);
    if let Some(platform) = platform {
        platform.os().clone_into(&mut facts.os);
        platform.architecture().clone_into(&mut facts.architecture);
    }
    facts.labels = [
        ("kubernetes.io/hostname", facts.name.as_str()),
        ("kubernetes.io/os", facts.os.as_str()),
        ("kubernetes.io/arch", facts.architecture.as_str()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .chain(args.labels.iter().map(|l| (l.key.clone(), l.value.clone())))
    .collect();
    Ok(facts)
}

/// The kernel's host name on Linux, `$HOSTNAME` elsewhere.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Warns when no entry of the manifests selects this node; a label is probably missing.
pub(crate) fn warn_nothing_selected(
    assignment: &Assignment,
    node: &NodeFacts,
    terminal: &Terminal,
) {
    if assignment.images.is_empty() {
        let labels: Vec<String> = node
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        terminal.warn(format_args!(
            "no entry of the manifests selects this node; its labels are {}; add labels with --node-label",
            labels.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_override_the_kubelet_labels() {
        let args = NodeArgs {
            labels: vec![
                "tier=edge".parse().unwrap(),
                "kubernetes.io/arch=riscv64".parse().unwrap(),
            ],
            node_name: Some(NodeName::new("worker-1").unwrap()),
        };
        let platform = "linux/arm64".parse().unwrap();
        let facts = node_facts(&args, Some(&platform)).unwrap();
        assert_eq!(facts.architecture, "arm64");
        let label = |key: &str| facts.labels.get(key).map(String::as_str);
        assert_eq!(label("kubernetes.io/hostname"), Some("worker-1"));
        assert_eq!(label("kubernetes.io/os"), Some("linux"));
        assert_eq!(label("kubernetes.io/arch"), Some("riscv64"));
        assert_eq!(label("tier"), Some("edge"));
    }
}
