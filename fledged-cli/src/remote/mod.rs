//! The commands for a cluster.
//!
//! They read ImageCaches, NodeImageCaches and Nodes, and decide nothing. Each command turns the objects into
//! a view: a plain value that is printed as JSON, as YAML, or as text for people.

mod actions;
mod agent_pod;
mod changes;
mod cloud_registry;
mod cluster_doctor;
mod get;
mod kubeconfig;
mod live_pulls;
mod matrix;
mod matrix_rows;
mod matrix_text;
mod node_state;
mod node_view;
mod overview;
mod pull_bytes;
mod queries;
mod status_command;
mod why;
mod why_text;

use serde::Serialize;

use crate::args::{ClusterCommand, Format};
use crate::command_result::{CommandError, Exit, json};
use crate::output::Terminal;

pub(crate) use kubeconfig::ClusterError;
pub(crate) use node_view::node_status;

#[cfg(feature = "demo")]
pub(crate) use self::{
    get::get_until,
    kubeconfig::{Connection, connect},
    matrix::Matrix,
    matrix_text::{Layout, matrix_text},
    node_state::is_warm,
    overview::{CacheOverview, is_cached, is_empty, is_failed, missing},
};

/// Runs a command for a cluster.
pub(crate) async fn run(
    command: ClusterCommand,
    terminal: &Terminal,
) -> Result<Exit, CommandError> {
    match command {
        ClusterCommand::Get(args) => get::get(args, terminal).await,
        ClusterCommand::Status(args) => status_command::status(args, terminal).await,
        ClusterCommand::Wait(args) => actions::wait(args, terminal).await,
        ClusterCommand::Refresh(args) => actions::refresh(args, terminal).await,
        ClusterCommand::Purge(args) => actions::purge(args, terminal).await,
        ClusterCommand::Why(args) => why::why(args).await,
        ClusterCommand::Plan(args) => changes::plan(args, terminal).await,
        ClusterCommand::Doctor(args) => cluster_doctor::doctor(args).await,
    }
}

/// A view in that format; `table` renders it for people.
fn render<V: Serialize>(
    format: Format,
    view: &V,
    table: impl FnOnce(&V) -> String,
) -> Result<String, CommandError> {
    match format {
        Format::Table => Ok(table(view)),
        Format::Json => json(view),
        Format::Yaml => yaml(view),
    }
}

/// As [`render`], for one view in a stream: JSON on one line, YAML with a document marker.
fn render_in_stream<V: Serialize>(
    format: Format,
    view: &V,
    table: impl FnOnce(&V) -> String,
) -> Result<String, CommandError> {
    match format {
        Format::Table => Ok(table(view)),
        Format::Json => serde_json::to_string(view)
            .map(|text| text + "\n")
            .map_err(|error| CommandError::Output(error.into())),
        Format::Yaml => yaml(view).map(|text| format!("---\n{text}")),
    }
}

fn yaml<V: Serialize>(view: &V) -> Result<String, CommandError> {
    serde_saphyr::to_string(view)
        .map_err(|error| CommandError::Output(std::io::Error::other(error.to_string())))
}
