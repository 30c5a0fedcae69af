//! The registry client against registries with quirks.

mod artifacts;
mod authorization;
mod hosts;
mod presence;
mod quirks;
