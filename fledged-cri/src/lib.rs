#![doc = include_str!("../README.md")]

pub mod classify;
pub mod clock;
pub mod credentials;
pub mod cri;
pub mod docker;
pub mod oci;
mod open;
pub mod registry;
pub mod signals;
pub mod target;

pub use open::open;
