#![doc = include_str!("../README.md")]

pub mod driver;
pub mod error;
pub mod model;
pub mod node;
pub mod ports;
#[cfg(feature = "sim")]
pub mod sim;
