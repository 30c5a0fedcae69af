//! The few objects that `kubectl create KIND` sends in the protobuf of Kubernetes.

mod read;
mod table;

pub(crate) use read::read;
