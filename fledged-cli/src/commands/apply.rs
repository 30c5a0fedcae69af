//! `fledged node apply`.

use fledged_core::model::{Assignment, AssignmentDefaults};
use fledged_core::warmer::WarmerConfig;

use super::{CommandError, input, round};
use crate::args::{ApplyArgs, PullArgs};
use crate::exit::Exit;
use crate::node::facts;
use crate::output::Terminal;
use crate::session::Session;

pub(super) async fn apply(args: ApplyArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let manifests = input::manifests(args.manifests.files, terminal).await?;
    let registry = &args.registry;
    let node = facts(&args.node, registry.platform.as_ref())?;
    input::warn_unhonoured(
        &manifests.caches,
        registry.registry_config.is_some(),
        terminal,
    );
    let assignment = Assignment::for_node(&node, &manifests.caches, defaults(&args.pull));
    input::warn_nothing(&assignment, &node, terminal);
    let session = Session::open(args.runtime.runtime.as_ref(), registry).await?;
    session.warn_unused(registry, terminal);
    input::warn_no_credentials(registry, terminal);
    let format = args.output.output;
    if args.dry_run {
        return round::foresee(&session, assignment, format, terminal).await;
    }
    let mut config = WarmerConfig::default();
    config.max_parallel_pulls = args.pull.max_parallel_pulls;
    round::settle(&session, config, assignment, format, terminal).await
}

/// What the arguments say where a manifest does not.
pub(super) fn defaults(args: &PullArgs) -> AssignmentDefaults {
    AssignmentDefaults::default()
        .with_pull_policy(args.image_pull_policy)
        .with_deadline(args.deadline)
}
