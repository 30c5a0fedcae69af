//! What is known of this node: its name and its labels.

use fledged_core::model::{InvalidNodeName, NodeFacts, NodeName};
use fledged_cri::registry::Platform;

use crate::args::NodeArgs;

/// The host name is not a node name, and no other was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this machine's host name can't be the node's name: {0}; name the node with --node-name")]
pub struct UnusableHostName(#[source] pub InvalidNodeName);

/// This node: named by the arguments or its host, labelled as the kubelet labels it and as the
/// arguments say, which win.
///
/// # Errors
///
/// [`UnusableHostName`].
pub fn facts(args: &NodeArgs, platform: Option<&Platform>) -> Result<NodeFacts, UnusableHostName> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        // The kubelet too takes the host name in lower case.
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

/// The kernel's host name; elsewhere than on Linux what the shell exports.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_the_kubelet_are_there_and_given_ones_win() {
        let args = NodeArgs {
            labels: vec![
                "tier=edge".parse().unwrap(),
                "kubernetes.io/arch=riscv64".parse().unwrap(),
            ],
            node_name: Some(NodeName::new("worker-1").unwrap()),
        };
        let platform = "linux/arm64".parse().unwrap();
        let facts = facts(&args, Some(&platform)).unwrap();
        assert_eq!(facts.architecture, "arm64");
        let label = |key: &str| facts.labels.get(key).map(String::as_str);
        assert_eq!(label("kubernetes.io/hostname"), Some("worker-1"));
        assert_eq!(label("kubernetes.io/os"), Some("linux"));
        assert_eq!(label("kubernetes.io/arch"), Some("riscv64"));
        assert_eq!(label("tier"), Some("edge"));
    }
}
