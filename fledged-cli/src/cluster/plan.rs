//! `fledged plan`.

use jiff::Timestamp;

use super::args::PlanArgs;
use super::change::{Action, Changes, Inventory, changes};
use super::connect::connect;
use super::document::render;
use crate::commands::{CommandError, print, warn_unread};
use crate::exit::Exit;
use crate::manifest;
use crate::output::{Align, Table, Terminal, pluralised};

/// Names of nodes that a row has room for.
const NAMES: usize = 3;

pub(super) async fn plan(args: PlanArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let (sources, namespace) = (args.manifests.files, connection.namespace.clone());
    let read = move || manifest::read_in(&sources, &namespace);
    let manifests = tokio::task::spawn_blocking(read).await??;
    warn_unread(&manifests, terminal);
    // All of them, wherever they are: what another cache wants stays.
    let inventory = Inventory {
        caches: connection.list_caches(true).await?,
        nodes: connection.list_nodes().await?,
        records: connection.list_records().await?,
    };
    let changes = changes(&inventory, &manifests.caches, Timestamp::now());
    print(&render(args.output.output, &changes, text)?)?;
    Ok(match args.exit_code && changes.is_any() {
        true => Exit::Failed,
        false => Exit::Done,
    })
}

fn text(changes: &Changes) -> String {
    let summary = changes.summary;
    if changes.changes.is_empty() {
        return "nothing would change\n".to_owned();
    }
    let mut table = Table::new(&[
        ("ACTION", Align::Left),
        ("IMAGE", Align::Left),
        ("NODES", Align::Right),
        ("WHICH", Align::Left),
        ("FOR", Align::Left),
    ]);
    for change in &changes.changes {
        let action = match change.action {
            Action::Pull => "pull",
            Action::Remove => "remove",
            Action::Release => "release",
            Action::Keep => "keep",
        };
        let shown: Vec<&str> = change
            .nodes
            .iter()
            .take(NAMES)
            .map(String::as_str)
            .collect();
        let mut which = shown.join(", ");
        if change.nodes.len() > NAMES {
            which.push_str(", …");
        }
        if !change.not_ready.is_empty() {
            which.push_str(&format!(" ({} not ready)", change.not_ready.len()));
        }
        table.row([
            action.to_owned(),
            change.image.clone(),
            change.nodes.len().to_string(),
            which,
            change.image_caches.join(", "),
        ]);
    }
    let mut parts = Vec::new();
    for (count, what) in [
        (summary.pull, "to pull"),
        (summary.remove, "to remove"),
        (summary.release, "to release"),
        (summary.keep, "kept for other caches"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    format!(
        "{}{} on {}; nothing was written\n",
        table.render(),
        parts.join(", "),
        pluralised(summary.nodes, "node")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::change::{Change, ChangeSummary};

    #[test]
    fn a_plan_is_a_row_for_each_image_and_what_happens_to_it() {
        let nodes = |count: usize| (0..count).map(|n| format!("node-{n}")).collect::<Vec<_>>();
        let change = |action, image: &str, count, not_ready| Change {
            action,
            image: image.to_owned(),
            image_caches: match action {
                Action::Remove => Vec::new(),
                _ => vec!["shop/web".to_owned()],
            },
            nodes: nodes(count),
            not_ready: nodes(not_ready),
        };
        let changes = Changes {
            changes: vec![
                change(Action::Pull, "registry.test/app:2", 40, 2),
                change(Action::Remove, "registry.test/app:1", 2, 0),
                change(Action::Keep, "registry.test/db:1", 1, 0),
            ],
            summary: ChangeSummary {
                pull: 40,
                remove: 2,
                release: 0,
                keep: 1,
                nodes: 40,
            },
        };
        assert_eq!(
            text(&changes),
            "\
ACTION   IMAGE                 NODES   WHICH                                     FOR
pull     registry.test/app:2      40   node-0, node-1, node-2, … (2 not ready)   shop/web
remove   registry.test/app:1       2   node-0, node-1
keep     registry.test/db:1        1   node-0                                    shop/web
40 to pull, 2 to remove, 1 kept for other caches on 40 nodes; nothing was written
"
        );
        assert_eq!(text(&Changes::default()), "nothing would change\n");
    }
}
