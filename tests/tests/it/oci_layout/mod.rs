//! The OCI layout runtime against a real registry, with faults, kills and other readers.
mod faults;
mod folder;
mod kill;
mod presence;
mod pressure;
mod pull;
mod readers;
mod support;
mod writer;
