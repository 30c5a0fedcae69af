//! Hostile bytes: every parser of text from registries, runtimes, users and files, as a function of bytes.
//!
//! A [`Target`] must return for every input: no panic, no unbounded memory or time. Some also check a property, for
//! example that a parsed value parses again to itself. `fuzz/corpus/NAME` holds the inputs that coverage-guided
//! runs found; [`Mutator`] makes more from them.

mod mutator;
mod targets;

use std::any::Any;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

pub use mutator::{LENGTH_MAX, Mutator};
pub use targets::{TARGETS, Target, target};

/// The folder with one corpus a target.
#[must_use]
pub fn corpus_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// The inputs of a target's corpus, in the order of their names.
///
/// # Panics
///
/// If the folder cannot be read or is empty.
#[must_use]
pub fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = corpus_root().join(target.name);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Runs a target with one input.
///
/// # Errors
///
/// The message of the panic.
pub fn run(target: &Target, input: &[u8]) -> Result<(), String> {
    catch_unwind(|| (target.run)(input)).map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}
