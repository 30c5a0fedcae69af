//! `fledged status`: one ImageCache on its nodes.

use console::Term;
use jiff::Timestamp;

use super::kubeconfig::{ClusterError, connect};
use super::matrix::Matrix;
use super::matrix_text::{Layout, matrix_text};
use super::render;
use crate::args::StatusArgs;
use crate::command_result::{CommandError, Exit, print};

pub(super) async fn status(args: StatusArgs) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let cache = connection.cache(&args.name).await?;
    // All ImageCaches share the room of a node's record. Without the permission to list them, only this one.
    let caches = match connection.list_caches(true).await {
        Err(ClusterError::Forbidden { .. }) => Vec::new(),
        listed => listed?,
    };
    let nodes = connection.list_nodes().await?;
    let records = connection.list_records().await?;
    let now = Timestamp::now();
    let matrix = Matrix::new(&cache, &caches, &nodes, &records, now);
    let layout = if args.all {
        Layout::all()
    } else {
        Layout::for_terminal(&Term::stdout(), args.max_nodes)
    };
    let text = render(args.output.output, &matrix, |matrix| {
        matrix_text(matrix, layout, now)
    })?;
    print(&text)?;
    Ok(Exit::Done)
}
