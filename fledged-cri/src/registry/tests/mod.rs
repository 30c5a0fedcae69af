//! The registry client against registries with quirks.

mod artifacts;
mod authorization;
mod hosts;
mod parts;
mod presence;
mod quirks;
