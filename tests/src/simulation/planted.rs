//! Bugs that can be planted in the program, and the seeds that find them.
//!
//! A bug is a mark in the source of the product, `planted::is("its-name")`, which is `false` in every program but the
//! tests. It is what could have been forgotten there: a condition, a limit, a repetition, a reset.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct PlantedBug {
    /// Its name, which is that of its mark.
    pub name: &'static str,
    /// The part of the program that has it.
    pub area: &'static str,
    /// What it does.
    pub what: &'static str,
    /// A seed that finds it, and the invariant that it breaks there. `None`: not found yet.
    pub found: Option<(u64, &'static str)>,
}

/// All bugs, by area.
pub const PLANTED_BUGS: &[PlantedBug] = &[
    PlantedBug {
        name: "invalid-edit-removes",
        area: "planner",
        what: "An invalid edit removes the images of the last valid spec.",
        found: Some((2, "the removal of a wanted image is never ordered")),
    },
    PlantedBug {
        name: "full-record-removes",
        area: "planner",
        what: "A cache that a record has no room for loses its images on that node.",
        found: None,
    },
    PlantedBug {
        name: "finalizer-removed-early",
        area: "planner",
        what: "A finalizer is removed before the images are.",
        found: Some((16, "a finalizer stays until the images are removed")),
    },
    PlantedBug {
        name: "finalizer-stays",
        area: "planner",
        what: "A finalizer stays after the images are removed.",
        found: Some((1, "everything converges")),
    },
    PlantedBug {
        name: "request-not-finished",
        area: "planner",
        what: "The annotation of a purge or refresh that is done stays.",
        found: Some((2, "everything converges")),
    },
    PlantedBug {
        name: "edit-during-action-lost",
        area: "planner",
        what: "An edit during an action changes the generation of the status only.",
        found: Some((2, "a status counts what its spec selects")),
    },
    PlantedBug {
        name: "label-change-missed",
        area: "planner",
        what: "A change of labels is no reason to plan a node.",
        found: Some((8, "a status counts what its spec selects")),
    },
    PlantedBug {
        name: "one-slot-too-many",
        area: "planner",
        what: "One node more than the limit pulls.",
        found: Some((7, "no more nodes pull than the limit")),
    },
    PlantedBug {
        name: "slot-of-gone-node",
        area: "planner",
        what: "A node that is deleted during a pull keeps its slot.",
        found: Some((17, "everything converges")),
    },
    PlantedBug {
        name: "freed-slot-not-given",
        area: "planner",
        what: "A slot of a cache that becomes free is not given to a node that waits.",
        found: Some((13, "everything converges")),
    },
    PlantedBug {
        name: "request-lost-after-conflict",
        area: "planner",
        what: "The removal of an annotation is not repeated after a conflict.",
        found: None,
    },
    PlantedBug {
        name: "finalizer-lost-after-conflict",
        area: "planner",
        what: "A change of a finalizer is not repeated after a conflict.",
        found: Some((35, "everything converges")),
    },
    PlantedBug {
        name: "assignment-lost-after-conflict",
        area: "planner",
        what: "An assignment is not written again after a conflict.",
        found: None,
    },
    PlantedBug {
        name: "overwritten-status-stays",
        area: "planner",
        what: "A status that another writer overwrote is not written again.",
        found: None,
    },
    PlantedBug {
        name: "unresponsive-for-ever",
        area: "planner",
        what: "A report does not end that a node counts as unresponsive.",
        found: Some((91, "everything converges")),
    },
    PlantedBug {
        name: "refresh-without-revision",
        area: "planner",
        what: "A refresh on demand asks the nodes for nothing.",
        found: Some((2, "everything converges")),
    },
    PlantedBug {
        name: "gone-node-counted",
        area: "planner",
        what: "A node that is deleted stays in the counts of its caches.",
        found: Some((4, "a status counts what its spec selects")),
    },
    PlantedBug {
        name: "foreign-secret-named",
        area: "planner",
        what: "A message names the Secret of another namespace.",
        found: Some((14, "no Secret of another namespace is named")),
    },
    PlantedBug {
        name: "secrets-of-other-caches",
        area: "planner",
        what: "An image is pulled with the Secrets of all caches of the node.",
        found: Some((
            2,
            "an image is asked for only with logins of namespaces that want it",
        )),
    },
    PlantedBug {
        name: "old-report-trusted",
        area: "planner",
        what: "A report counts for an assignment that came after it.",
        found: None,
    },
    PlantedBug {
        name: "time-of-another-condition",
        area: "planner",
        what: "A condition takes the time of another one.",
        found: Some((8, "no condition changes before it did")),
    },
    PlantedBug {
        name: "ready-while-lacking",
        area: "planner",
        what: "A cache stays Ready while a lost image is pulled again.",
        found: Some((2, "nothing is Ready that lacks an image")),
    },
    PlantedBug {
        name: "deletion-waits-for-unreachable",
        area: "planner",
        what: "A deletion waits for nodes that are NotReady.",
        found: None,
    },
    PlantedBug {
        name: "one-pull-too-many",
        area: "warmer",
        what: "One pull more than the limit runs.",
        found: Some((1, "no more pulls on a node than its limit")),
    },
    PlantedBug {
        name: "reading-too-old",
        area: "warmer",
        what: "A reading that began before a pull ended decides about its image.",
        found: None,
    },
    PlantedBug {
        name: "eviction-unnoticed",
        area: "warmer",
        what: "An image that is missing in a reading stays Cached.",
        found: Some((2, "no report claims what the runtime does not hold")),
    },
    PlantedBug {
        name: "use-ignored",
        area: "warmer",
        what: "An image that a container uses is removed.",
        found: Some((35, "nothing is removed that a container uses")),
    },
    PlantedBug {
        name: "other-names-removed",
        area: "warmer",
        what: "An image is removed with names that are not fledged's.",
        found: Some((114, "an agent removes only what its record orders")),
    },
    PlantedBug {
        name: "foreign-image-removed",
        area: "warmer",
        what: "An order to remove what was held removes what was not.",
        found: None,
    },
    PlantedBug {
        name: "failed-removal-blocks",
        area: "warmer",
        what: "No removal starts after one has failed.",
        found: None,
    },
    PlantedBug {
        name: "failed-round-not-retried",
        area: "warmer",
        what: "No round follows one that failed.",
        found: None,
    },
    PlantedBug {
        name: "retry-after-forgotten",
        area: "warmer",
        what: "A registry's Retry-After delays only the image that met it.",
        found: Some((400, "a registry's time without requests is kept")),
    },
    PlantedBug {
        name: "disk-full-for-a-day",
        area: "warmer",
        what: "A full disk stops the pulls of a node for a day.",
        found: Some((44, "everything converges")),
    },
    PlantedBug {
        name: "cancelled-pull-counts",
        area: "warmer",
        what: "A pull that is cancelled keeps its slot.",
        found: Some((35, "no node with a working agent counts as unreachable")),
    },
    PlantedBug {
        name: "failed-reading-not-repeated",
        area: "warmer",
        what: "A reading that failed is not repeated.",
        found: None,
    },
    PlantedBug {
        name: "read-only-once",
        area: "warmer",
        what: "The images of a runtime are read once.",
        found: Some((2, "no process ends unexpectedly")),
    },
    PlantedBug {
        name: "pull-satisfies-later-refresh",
        area: "warmer",
        what: "A pull counts for a refresh that came after it began.",
        found: None,
    },
    PlantedBug {
        name: "refresh-not-pulled",
        area: "warmer",
        what: "A new revision of a mutable tag is not pulled.",
        found: Some((7, "no node with a working agent counts as unreachable")),
    },
    PlantedBug {
        name: "stored-report-ignored",
        area: "reporter",
        what: "An agent that starts writes the report that is stored.",
        found: Some((16, "no write repeats what is stored")),
    },
    PlantedBug {
        name: "change-during-write-lost",
        area: "reporter",
        what: "What changes during a write is not written.",
        found: None,
    },
    PlantedBug {
        name: "progress-not-paced",
        area: "reporter",
        what: "Progress is written every second.",
        found: Some((11, "a rollout takes few writes")),
    },
    PlantedBug {
        name: "record-gone-for-ever",
        area: "reporter",
        what: "Nothing is reported after a record was deleted.",
        found: None,
    },
    PlantedBug {
        name: "failed-write-forgotten",
        area: "reporter",
        what: "A report that was not written is forgotten.",
        found: None,
    },
    PlantedBug {
        name: "assignment-not-answered",
        area: "reporter",
        what: "A new assignment without a change is not acknowledged.",
        found: Some((16, "no node with a working agent counts as unreachable")),
    },
    PlantedBug {
        name: "expired-watch-not-listed",
        area: "agent",
        what: "A watch whose version has expired starts again without a list.",
        found: None,
    },
    PlantedBug {
        name: "new-record-taken-for-old",
        area: "agent",
        what: "A new record with the generation of the old one is ignored.",
        found: None,
    },
    PlantedBug {
        name: "missing-secret-remembered",
        area: "agent",
        what: "A Secret that was missing once is missing for ever.",
        found: Some((2, "everything converges")),
    },
    PlantedBug {
        name: "failed-report-taken-for-written",
        area: "agent",
        what: "A report that the API server refused counts as written.",
        found: Some((101, "everything converges")),
    },
    PlantedBug {
        name: "watch-starts-from-old-version",
        area: "agent",
        what: "A watch that starts again repeats events, which the agent follows.",
        found: Some((11, "no write repeats what is stored")),
    },
    PlantedBug {
        name: "second-list-ignored",
        area: "agent",
        what: "What changed before a second list is missed.",
        found: None,
    },
    PlantedBug {
        name: "replaced-node-unnoticed",
        area: "reconcile",
        what: "A node that another machine replaced is taken for the old one.",
        found: None,
    },
    PlantedBug {
        name: "planned-before-all-lists",
        area: "reconcile",
        what: "The first plan does not wait for the records of nodes.",
        found: Some((2, "nothing is written before all lists are complete")),
    },
    PlantedBug {
        name: "status-of-deleted-cache",
        area: "reconcile",
        what: "The status of a deleted cache is written to a new one of its name.",
        found: None,
    },
    PlantedBug {
        name: "failed-deletion-ignored",
        area: "reconcile",
        what: "The deletion of a record that failed counts as done.",
        found: None,
    },
    PlantedBug {
        name: "report-of-equal-count-missed",
        area: "reconcile",
        what: "A report with as many cached images as the last one is ignored.",
        found: Some((3, "everything converges")),
    },
    PlantedBug {
        name: "older-write-repeated",
        area: "reconcile",
        what: "A write that failed replaces a newer one.",
        found: None,
    },
    PlantedBug {
        name: "write-given-up",
        area: "reconcile",
        what: "A write is given up after two failures.",
        found: None,
    },
    PlantedBug {
        name: "newer-write-dropped",
        area: "reconcile",
        what: "What is to be written during a write is dropped.",
        found: None,
    },
    PlantedBug {
        name: "conflict-not-planned-again",
        area: "reconcile",
        what: "The planner does not learn of a conflict.",
        found: Some((35, "everything converges")),
    },
    PlantedBug {
        name: "deletion-in-a-gap-missed",
        area: "cluster client",
        what: "Objects that are deleted while a watch is interrupted stay known.",
        found: None,
    },
    PlantedBug {
        name: "unavailable-taken-for-gone",
        area: "cluster client",
        what: "A write that the API server had no capacity for is given up.",
        found: None,
    },
    PlantedBug {
        name: "lease-taken-too-early",
        area: "cluster client",
        what: "A candidate takes a Lease over that has not expired.",
        found: Some((17, "only the holder of the Lease writes")),
    },
    PlantedBug {
        name: "leads-past-the-deadline",
        area: "cluster client",
        what: "A leader that cannot renew its Lease does not stop.",
        found: Some((2, "only the holder of the Lease writes")),
    },
    PlantedBug {
        name: "lease-without-version",
        area: "cluster client",
        what: "A Lease is written whatever another candidate wrote.",
        found: Some((1, "everything converges")),
    },
    PlantedBug {
        name: "lost-lease-ignored",
        area: "cluster client",
        what: "A leader that finds another holder does not stop.",
        found: None,
    },
    PlantedBug {
        name: "renewal-dated-by-answer",
        area: "cluster client",
        what: "A renewal counts from its answer.",
        found: None,
    },
];
