//! The registry client against registries with quirks.

mod authorization;
mod presence;
