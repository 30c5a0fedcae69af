//! What `deploy/` installs: rendered by the real helm and kubectl, installed on an API server, and held against what
//! it promises: the fewest rights, Pod Security, the values of kube-fledged's chart.
//!
//! Runs on the embedded API server; on a real one where `KUBEBUILDER_ASSETS` (a folder with `etcd` and
//! `kube-apiserver`) or `TEST_KUBECONFIG` (a cluster) is set.

mod chart;
mod dashboard;
mod effects;
mod image;
mod install;
mod kube_fledged;
mod limits;
mod make;
mod migration;
mod migration_yaml;
mod objects;
mod operator;
mod pod_security;
mod policy;
mod refused;
mod release;
mod rendered;
mod rights;
mod under_rights;
mod values;
