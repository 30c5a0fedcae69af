//! CRI as generated from its proto.
#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("runtime.v1");
