//! The operator's own binary on real containerd and real registries.
mod private;
mod program;
mod pull_via;
mod refresh;
mod superseded;
