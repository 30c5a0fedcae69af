#![doc = include_str!("../README.md")]

pub mod classify;
pub mod credentials;
pub mod cri;
pub mod docker;
pub mod oci;
mod open;
pub mod registry;
pub mod target;

pub use open::open;
