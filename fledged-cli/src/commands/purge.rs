//! `fledged node purge`.

use fledged_core::model::{Assignment, AssignmentDefaults};
use fledged_core::warmer::WarmerConfig;

use super::{CommandError, input, round};
use crate::args::PurgeArgs;
use crate::exit::Exit;
use crate::node::facts;
use crate::output::Terminal;
use crate::session::Session;

pub(super) async fn purge(args: PurgeArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let manifests = input::manifests(args.manifests.files, terminal).await?;
    let node = facts(&args.node, args.registry.platform.as_ref())?;
    let named = Assignment::for_node(&node, &manifests.caches, AssignmentDefaults::default());
    input::warn_nothing(&named, &node, terminal);
    let assignment = named.into_absent();
    let session = Session::open(args.runtime.runtime.as_ref(), &args.registry).await?;
    let format = args.output.output;
    if args.dry_run {
        return round::foresee(&session, assignment, format, terminal).await;
    }
    round::settle(
        &session,
        WarmerConfig::default(),
        assignment,
        format,
        terminal,
    )
    .await
}
