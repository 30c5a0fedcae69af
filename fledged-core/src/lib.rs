#![doc = include_str!("../README.md")]

pub mod cluster;
pub mod driver;
pub mod error;
pub mod model;
pub mod node;
pub mod ports;
#[cfg(feature = "sim")]
pub mod sim;

// What an implementor of the ports needs, in the versions that the ports speak.
#[doc(no_inline)]
pub use {async_trait::async_trait, futures_util, jiff, secrecy};
