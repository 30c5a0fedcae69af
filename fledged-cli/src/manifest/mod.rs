//! ImageCache manifests: files and stdin, to valid caches.

mod document;
mod error;
mod name;
mod source;
mod syntax;
mod text;

pub use error::{Finding, ManifestError};
pub use source::{InvalidSource, Source, read, read_in};
pub use text::{Manifests, parse, parse_in};
