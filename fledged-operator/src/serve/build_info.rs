//! Which build this is.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// Adds `fledged_build_info` with the version to a registry. Once a process.
pub fn register_build_info(registry: &mut Registry) {
    let build = Build {
        version: env!("CARGO_PKG_VERSION"),
    };
    registry.register("fledged_build", "The build that runs", Info::new(build));
}
