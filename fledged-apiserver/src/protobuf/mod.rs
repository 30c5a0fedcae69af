//! The few objects that `kubectl create KIND` and helm send in the protobuf of Kubernetes.

mod read;
mod table;

pub(crate) use read::read;
