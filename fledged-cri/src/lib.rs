#![doc = include_str!("../README.md")]

pub mod classify;
pub mod docker;
pub mod cri;
pub mod credentials;
pub mod oci;
pub mod registry;
pub mod clock;
pub mod cri;
pub mod target;
