//! Tests of `deploy/`: the objects are rendered by the real helm and kubectl and installed on an API server. Checked
//! are the documented rights, Pod Security, and the values of kube-fledged's chart.
//!
//! They run on the embedded API server, or on a real one if `KUBEBUILDER_ASSETS` (a folder with `etcd` and
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
mod samples;
mod under_rights;
mod values;
