//! `fledged status`.

use jiff::Timestamp;

use super::args::StatusArgs;
use super::connect::connect;
use super::document::render;
use super::matrix::Matrix;
use super::matrix_table::text;
use crate::commands::{CommandError, print};
use crate::exit::Exit;

pub(super) async fn status(args: StatusArgs) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let cache = connection.cache(&args.name).await?;
    let nodes = connection.list_nodes().await?;
    let records = connection.list_records().await?;
    let now = Timestamp::now();
    let matrix = Matrix::new(&cache, &nodes, &records, now);
    let shown = render(args.output.output, &matrix, |matrix| {
        text(matrix, args.max_nodes, now)
    })?;
    print(&shown)?;
    Ok(Exit::Done)
}
