//! The command itself.

use fledged_core::model::ImageRef;
use fledged_operator::controller::ReadNode;
use fledged_operator::crd::ReadNodeCache;
use jiff::Timestamp;

use super::explain::{Situation, explain};
use super::text::text;
use crate::cluster::args::WhyArgs;
use crate::cluster::connect::connect;
use crate::cluster::document::render;
use crate::cluster::node_objects::{NODES, RECORDS};
use crate::commands::{CommandError, print};
use crate::exit::Exit;
use crate::invocation;

pub(crate) async fn why(args: WhyArgs) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let cache = connection.cache(&args.name).await?;
    let name = args.node.as_str();
    let node: Option<ReadNode> = connection.find(NODES, name).await?;
    let record: Option<ReadNodeCache> = connection.find(RECORDS, name).await?;
    let now = Timestamp::now();
    let image: &ImageRef = &args.image;
    let answer = explain(&Situation {
        program: invocation::program(),
        cache: &cache,
        node_name: &args.node,
        node: node.as_ref(),
        record: record.as_ref(),
        image,
        now,
    });
    let shown = render(args.output.output, &answer, |answer| text(answer, now))?;
    print(&shown)?;
    Ok(match answer.cached {
        true => Exit::Done,
        false => Exit::Failed,
    })
}
