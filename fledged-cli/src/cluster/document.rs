//! Results for programs.

use serde::Serialize;

use super::args::Format;
use crate::commands::CommandError;

/// A view as JSON or YAML, ended by a line feed; `table` writes it for people.
pub(super) fn render<V: Serialize>(
    format: Format,
    view: &V,
    table: impl FnOnce(&V) -> String,
) -> Result<String, CommandError> {
    match format {
        Format::Table => Ok(table(view)),
        Format::Json => {
            let json = serde_json::to_string_pretty(view);
            json.map(|text| text + "\n")
                .map_err(|error| CommandError::Output(error.into()))
        }
        Format::Yaml => yaml(view),
    }
}

/// The same as one of a stream of documents: a line of JSON, or a YAML document with its marker.
pub(super) fn render_one_of_many<V: Serialize>(
    format: Format,
    view: &V,
    table: impl FnOnce(&V) -> String,
) -> Result<String, CommandError> {
    match format {
        Format::Table => Ok(table(view)),
        Format::Json => {
            let json = serde_json::to_string(view);
            json.map(|text| text + "\n")
                .map_err(|error| CommandError::Output(error.into()))
        }
        Format::Yaml => yaml(view).map(|text| format!("---\n{text}")),
    }
}

fn yaml<V: Serialize>(view: &V) -> Result<String, CommandError> {
    let yaml = serde_saphyr::to_string(view);
    yaml.map_err(|error| CommandError::Output(std::io::Error::other(error.to_string())))
}
