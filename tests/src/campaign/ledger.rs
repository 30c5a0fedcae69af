//! What users want, what each runtime holds, and whether what went was meant to go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::cri_images::{self, Held};
use super::plan::{CACHES, NODES, Request};

/// What a user wants of one cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Whether the ImageCache exists.
    pub(super) exists: bool,
    /// Whether it was purged since its last refresh or edit.
    pub(super) purged: bool,
    /// Whether a purge was asked for since the last convergence. A controller that was away sees it together with a later
    /// edit, and cannot know which came first.
    purge_asked: bool,
    /// The references that its spec lists.
    pub(super) images: BTreeSet<String>,
    /// Those that its spec has listed since it was created.
    pub(super) listed: BTreeSet<String>,
}

/// What is wanted and what was seen, since the last convergence.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By number of the cache, after all requests so far. A request that is not done yet counts as done: what is wanted
    /// before and after it is wanted for certain.
    caches: BTreeMap<usize, Wanted>,
    nodes: [NodeLedger; NODES],
    pub(super) counts: Counts,
    /// Each is a failure of the campaign.
    pub(super) violations: Vec<String>,
}

/// Figures about images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Wanted images that fledged removed.
    pub(super) images_lost: u64,
    /// Images that fledged removed although no ImageCache ever listed them.
    pub(super) wrong_removals: u64,
    /// Images that fledged removed as ordered.
    pub(super) ordered_removals: u64,
    /// Images that left the specs and stayed: the agent was killed before it had reported that it pulls them.
    pub(super) left_behind: u64,
    /// Images that were gone without a request of anyone, for example after a crash or a full disk.
    pub(super) lost_by_runtime: u64,
}

#[derive(Debug, Default)]
struct NodeLedger {
    /// References that a cache had listed for this node at any time.
    listed: BTreeSet<String>,
    /// References that were not wanted at some time since the last convergence.
    unwanted: BTreeSet<String>,
    /// References of caches that were deleted with `Retain`: they may stay until everything converges while another
    /// cache lists them. A controller may not have seen a spec before, which was replaced within a moment.
    released: BTreeSet<String>,
    /// References that the campaign has removed since the last convergence.
    taken: BTreeSet<String>,
    /// Images of other programs.
    others: BTreeSet<String>,
    /// What the runtime held when it last answered.
    held: BTreeMap<String, Held>,
    /// The arguments of `RemoveImage` since the last convergence, from containerd's log. Only fledged calls it.
    removals: BTreeSet<String>,
    /// When the last pull of an image began, from containerd's log.
    pulls: BTreeMap<String, Timestamp>,
    /// When the agent was killed.
    kills: Vec<Timestamp>,
}

/// How long an agent may take to report that it pulls an image, while the API server fails.
const REPORTED_WITHIN: Duration = Duration::from_secs(10);

impl Ledger {
    /// The caches that exist, by number.
    pub(super) fn existing(&self) -> impl Iterator<Item = usize> {
        let existing = self.caches.iter().filter(|(_, wanted)| wanted.exists);
        existing.map(|(cache, _)| *cache)
    }

    /// Whether the cache exists.
    pub(super) fn exists(&self, cache: usize) -> bool {
        self.caches.get(&cache).is_some_and(|wanted| wanted.exists)
    }

    /// The references that a node must hold.
    pub(super) fn wanted(&self, node: usize) -> BTreeSet<String> {
        self.images_of(node, |wanted| wanted.exists && !wanted.purged)
    }

    /// The references that a node must hold in each order in which a controller may see the requests.
    fn certainly_wanted(&self, node: usize) -> BTreeSet<String> {
        self.images_of(node, |wanted| wanted.exists && !wanted.purge_asked)
    }

    fn images_of(&self, node: usize, chosen: impl Fn(&Wanted) -> bool) -> BTreeSet<String> {
        let caches = self.caches.iter();
        let caches = caches.filter(|(cache, _)| CACHES[**cache].1.contains(&node));
        let caches = caches.filter(|(_, wanted)| chosen(wanted));
        caches
            .flat_map(|(_, wanted)| wanted.images.clone())
            .collect()
    }

    /// The references that a node must not hold any more: listed before, wanted by no cache now.
    pub(super) fn to_remove(&self, node: usize) -> BTreeSet<String> {
        let wanted = self.wanted(node);
        let ledger = &self.nodes[node];
        let gone = ledger.listed.difference(&wanted);
        gone.filter(|image| !ledger.released.contains(*image))
            .cloned()
            .collect()
    }

    /// Images of other programs on a node.
    pub(super) fn others(&self, node: usize) -> &BTreeSet<String> {
        &self.nodes[node].others
    }

    /// Another program has put an image on a node.
    pub(super) fn add_other(&mut self, node: usize, image: String) {
        self.nodes[node].others.insert(image);
    }

    /// What the runtime held when it last answered.
    pub(super) fn held(&self, node: usize) -> &BTreeMap<String, Held> {
        &self.nodes[node].held
    }

    /// The campaign is about to remove an image.
    pub(super) fn take(&mut self, node: usize, image: &str) {
        self.nodes[node].taken.insert(image.to_owned());
    }

    /// The agent of a node is killed.
    pub(super) fn agent_killed(&mut self, node: usize, at: Timestamp) {
        self.nodes[node].kills.push(at);
    }

    /// Whether the agent of a node was killed soon after the last pull of an image began: no process may know of the pull.
    fn is_pull_unknown(&self, node: usize, image: &str) -> bool {
        let ledger = &self.nodes[node];
        let began = ledger.pulls.get(image);
        began.is_some_and(|began| {
            let soon = |kill: &Timestamp| {
                let after = kill.duration_since(*began);
                !after.is_negative() && after.unsigned_abs() <= REPORTED_WITHIN
            };
            ledger.kills.iter().any(soon)
        })
    }

    /// Lets an image stay that no process may know of, and counts it.
    pub(super) fn leave_behind(&mut self, node: usize, image: &str) -> bool {
        let unknown = self.is_pull_unknown(node, image);
        if unknown {
            self.nodes[node].released.insert(image.to_owned());
            self.counts.left_behind += 1;
        }
        unknown
    }

    /// A user asks for something. `images` are the references of an edit.
    pub(super) fn request(&mut self, cache: usize, request: &Request, images: BTreeSet<String>) {
        let wanted = self.caches.entry(cache).or_default();
        match request {
            Request::Apply { .. } => {
                wanted.listed.extend(images.iter().cloned());
                (wanted.exists, wanted.purged, wanted.images) = (true, false, images);
            }
            Request::Refresh => wanted.purged = false,
            Request::Purge => (wanted.purged, wanted.purge_asked) = (true, true),
            Request::Delete { .. } => wanted.exists = false,
        }
        let left = match request {
            // Removals that the cache has asked for before are dropped with it.
            Request::Delete { purge: false } => std::mem::take(&mut wanted.listed),
            _ => BTreeSet::new(),
        };
        for node in 0..NODES {
            let (wanted, certain) = (self.wanted(node), self.certainly_wanted(node));
            let ledger = &mut self.nodes[node];
            ledger.listed.extend(wanted.iter().cloned());
            ledger
                .unwanted
                .extend(ledger.listed.difference(&certain).cloned());
            if CACHES[cache].1.contains(&node) {
                ledger.released.extend(left.iter().cloned());
            }
        }
    }

    /// Everything has converged: from now on only what is not wanted now may go.
    pub(super) fn settle(&mut self) {
        for wanted in self.caches.values_mut() {
            wanted.purge_asked = false;
        }
        for node in 0..NODES {
            let wanted = self.wanted(node);
            let ledger = &mut self.nodes[node];
            ledger.unwanted = ledger.listed.difference(&wanted).cloned().collect();
            ledger.released.retain(|image| !wanted.contains(image));
            ledger.taken.clear();
            ledger.removals.clear();
        }
    }

    /// Judges what went since the last call: `held` was listed first, `removals` read from the log after that.
    fn observe(&mut self, node: usize, held: BTreeMap<String, Held>, removals: Vec<String>) {
        let ledger = &mut self.nodes[node];
        ledger.removals.extend(removals);
        let before = std::mem::replace(&mut ledger.held, held);
        for (image, old) in before {
            if ledger.held.contains_key(&image) || ledger.taken.remove(&image) {
                continue;
            }
            let by_fledged = [&old.id, &image].into_iter().chain(&old.digests);
            if !by_fledged
                .into_iter()
                .any(|name| ledger.removals.contains(name))
            {
                self.counts.lost_by_runtime += 1;
            } else if ledger.others.contains(&image) {
                self.counts.wrong_removals += 1;
                let text = format!("node {node}: {image} of another program was removed");
                self.violations.push(text);
            } else if !ledger.unwanted.contains(&image) {
                self.counts.images_lost += 1;
                let text = format!("node {node}: {image} was removed, but is wanted");
                self.violations.push(text);
            } else {
                self.counts.ordered_removals += 1;
            }
        }
    }
}

/// Reads what a containerd holds, and what it was asked to remove.
#[derive(Debug)]
pub(super) struct Observer {
    node: usize,
    socket: PathBuf,
    log: PathBuf,
    /// Bytes of the log that were read.
    read: usize,
    runtime: tokio::runtime::Runtime,
}

impl Observer {
    pub(super) fn new(node: usize, socket: PathBuf, log: PathBuf) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for an observer");
        Self {
            node,
            socket,
            log,
            read: 0,
            runtime,
        }
    }

    /// Lists the images and judges what went; returns whether the runtime answered.
    pub(super) fn look(&mut self, ledger: &std::sync::Mutex<Ledger>) -> bool {
        let Some(held) = self.runtime.block_on(cri_images::list(&self.socket)) else {
            return false;
        };
        let log = self.new_log();
        let removals = log.lines().filter_map(removal).collect();
        let mut ledger = ledger
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        ledger.nodes[self.node]
            .pulls
            .extend(log.lines().filter_map(pull));
        ledger.observe(self.node, held, removals);
        true
    }

    /// The new part of the log.
    fn new_log(&mut self) -> String {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut new = Vec::new();
        if let Ok(mut file) = std::fs::File::open(&self.log) {
            let _ = file.seek(SeekFrom::Start(self.read as u64));
            let _ = file.read_to_end(&mut new);
        }
        // A line that is not complete is read the next time.
        let complete = new
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.read += complete;
        String::from_utf8_lossy(&new[..complete]).into_owned()
    }
}

/// The argument in `msg="RemoveImage \"sha256:…\""`.
fn removal(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("msg=\"RemoveImage \\\"")?;
    let (argument, _) = rest.split_once("\\\"")?;
    Some(argument.to_owned())
}

/// The image and the time in `time="…" level=info msg="PullImage \"…\""`.
fn pull(line: &str) -> Option<(String, Timestamp)> {
    let (head, rest) = line.split_once("msg=\"PullImage \\\"")?;
    let (image, end) = rest.split_once("\\\"")?;
    let (_, time) = head.split_once("time=\"")?;
    let (time, _) = time.split_once('"')?;
    // The line of the end goes on.
    (end == "\"").then_some((image.to_owned(), time.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(images: &[(&str, &str)]) -> BTreeMap<String, Held> {
        let held = images.iter().map(|(image, id)| {
            let held = Held {
                id: (*id).to_owned(),
                digests: BTreeSet::new(),
            };
            ((*image).to_owned(), held)
        });
        held.collect()
    }

    fn wanting(images: &[&str]) -> Ledger {
        let mut ledger = Ledger::default();
        edit(&mut ledger, images);
        ledger.settle();
        ledger
    }

    fn edit(ledger: &mut Ledger, images: &[&str]) {
        let request = Request::Apply {
            images: Vec::new(),
            moving: false,
        };
        let images = images.iter().map(|image| (*image).to_owned()).collect();
        ledger.request(1, &request, images);
    }

    #[test]
    fn removal_of_a_wanted_image_is_a_loss() {
        let mut ledger = wanting(&["a", "b"]);
        ledger.observe(0, held(&[("a", "1"), ("b", "2")]), Vec::new());
        ledger.observe(0, held(&[("a", "1")]), vec!["2".to_owned()]);
        assert_eq!(ledger.counts.images_lost, 1);
        assert_eq!(ledger.violations.len(), 1);
    }

    #[test]
    fn removal_of_an_image_that_left_the_spec_is_right() {
        let mut ledger = wanting(&["a", "b"]);
        ledger.observe(0, held(&[("a", "1"), ("b", "2")]), Vec::new());
        edit(&mut ledger, &["a"]);
        assert_eq!(ledger.to_remove(0), BTreeSet::from(["b".to_owned()]));
        ledger.observe(0, held(&[("a", "1")]), vec!["2".to_owned()]);
        assert_eq!(ledger.counts.ordered_removals, 1);
        assert!(ledger.violations.is_empty());
    }

    #[test]
    fn a_spec_that_was_replaced_at_once_may_not_have_been_seen() {
        let mut ledger = wanting(&["a"]);
        let held = || held(&[("a", "1"), ("b", "2")]);
        ledger.observe(0, held(), Vec::new());
        ledger.request(1, &Request::Delete { purge: false }, BTreeSet::new());
        edit(&mut ledger, &["a", "b"]);
        edit(&mut ledger, &["b"]);
        // As "a" was left to the node, and nothing may have listed it since.
        assert_eq!(ledger.to_remove(0), BTreeSet::new());
        edit(&mut ledger, &["a", "b"]);
        ledger.settle();
        edit(&mut ledger, &["b"]);
        assert_eq!(ledger.to_remove(0), BTreeSet::from(["a".to_owned()]));
    }

    #[test]
    fn an_edit_after_a_purge_may_be_seen_before_it() {
        let mut ledger = wanting(&["a"]);
        ledger.observe(0, held(&[("a", "1"), ("b", "2")]), Vec::new());
        ledger.request(1, &Request::Purge, BTreeSet::new());
        edit(&mut ledger, &["a", "b"]);
        assert_eq!(ledger.wanted(0).len(), 2);
        ledger.observe(0, held(&[("a", "1")]), vec!["2".to_owned()]);
        assert_eq!(ledger.counts.ordered_removals, 1);
        ledger.settle();
        ledger.observe(0, held(&[]), vec!["1".to_owned()]);
        assert_eq!(ledger.counts.images_lost, 1);
    }

    #[test]
    fn removal_of_the_image_of_another_program_is_wrong() {
        let mut ledger = wanting(&["a"]);
        ledger.add_other(0, "other".to_owned());
        ledger.observe(0, held(&[("other", "3")]), Vec::new());
        ledger.observe(0, held(&[]), vec!["3".to_owned()]);
        assert_eq!(ledger.counts.wrong_removals, 1);
    }

    #[test]
    fn what_the_campaign_or_the_runtime_removed_is_no_loss() {
        let mut ledger = wanting(&["a", "b"]);
        ledger.observe(0, held(&[("a", "1"), ("b", "2")]), Vec::new());
        ledger.take(0, "a");
        ledger.observe(0, held(&[]), Vec::new());
        assert_eq!(ledger.counts.lost_by_runtime, 1);
        assert!(ledger.violations.is_empty());
    }

    #[test]
    fn requests_of_the_log_are_found() {
        let line = r#"time="2026-01-01T00:00:00Z" level=info msg="RemoveImage \"sha256:ab\"""#;
        assert_eq!(removal(line), Some("sha256:ab".to_owned()));
        let line = r#"time="2026-01-01T00:00:00Z" level=info msg="PullImage \"a:1\"""#;
        assert_eq!(removal(line), None);
        let began = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(pull(line), Some(("a:1".to_owned(), began)));
        let line = r#"time="2026-01-01T00:00:00Z" level=info msg="PullImage \"a:1\" returns image reference \"sha256:ab\"""#;
        assert_eq!(pull(line), None);
    }

    #[test]
    fn only_a_pull_before_a_kill_is_left_behind() {
        let mut ledger = wanting(&["a", "b"]);
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        ledger.nodes[0].pulls.insert("a".to_owned(), at(100));
        ledger.nodes[0].pulls.insert("b".to_owned(), at(104));
        ledger.agent_killed(0, at(103));
        edit(&mut ledger, &[]);
        assert!(ledger.leave_behind(0, "a"));
        assert!(!ledger.leave_behind(0, "b"));
        assert_eq!(ledger.to_remove(0), BTreeSet::from(["b".to_owned()]));
    }
}
