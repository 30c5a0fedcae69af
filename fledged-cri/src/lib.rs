#![doc = include_str!("../README.md")]

pub mod classify;
pub mod docker;
pub mod cri;
