#![doc = include_str!("../README.md")]

pub mod crd;
#[cfg(feature = "embedded")]
pub mod embedded;
