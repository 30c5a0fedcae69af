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
    /// A seed that finds it. `None`: not found yet.
    pub seed: Option<u64>,
}

/// All bugs, by area.
pub const PLANTED_BUGS: &[PlantedBug] = &[
    PlantedBug {
        name: "invalid-edit-removes",
        area: "planner",
        what: "An invalid edit removes the images of the last valid spec.",
        seed: Some(2),
    },
    PlantedBug {
        name: "full-record-removes",
        area: "planner",
        what: "A cache that a record has no room for loses its images on that node.",
        seed: None,
    },
    PlantedBug {
        name: "finalizer-removed-early",
        area: "planner",
        what: "A finalizer is removed before the images are.",
        seed: Some(16),
    },
    PlantedBug {
        name: "finalizer-stays",
        area: "planner",
        what: "A finalizer stays after the images are removed.",
        seed: Some(1),
    },
    PlantedBug {
        name: "request-not-finished",
        area: "planner",
        what: "The annotation of a purge or refresh that is done stays.",
        seed: Some(2),
    },
    PlantedBug {
        name: "edit-during-action-lost",
        area: "planner",
        what: "An edit during an action changes the generation of the status only.",
        seed: Some(2),
    },
    PlantedBug {
        name: "label-change-missed",
        area: "planner",
        what: "A change of labels is no reason to plan a node.",
        seed: Some(8),
    },
    PlantedBug {
        name: "one-slot-too-many",
        area: "planner",
        what: "One node more than the limit pulls.",
        seed: Some(30),
    },
    PlantedBug {
        name: "slot-of-gone-node",
        area: "planner",
        what: "A node that is deleted during a pull keeps its slot.",
        seed: Some(17),
    },
    PlantedBug {
        name: "freed-slot-not-given",
        area: "planner",
        what: "A slot of a cache that becomes free is not given to a node that waits.",
        seed: Some(13),
    },
    PlantedBug {
        name: "request-lost-after-conflict",
        area: "planner",
        what: "The removal of an annotation is not repeated after a conflict.",
        seed: None,
    },
    PlantedBug {
        name: "finalizer-lost-after-conflict",
        area: "planner",
        what: "A change of a finalizer is not repeated after a conflict.",
        seed: Some(14),
    },
    PlantedBug {
        name: "assignment-lost-after-conflict",
        area: "planner",
        what: "An assignment is not written again after a conflict.",
        seed: None,
    },
    PlantedBug {
        name: "overwritten-status-stays",
        area: "planner",
        what: "A status that another writer overwrote is not written again.",
        seed: None,
    },
    PlantedBug {
        name: "unresponsive-for-ever",
        area: "planner",
        what: "A report does not end that a node counts as unresponsive.",
        seed: Some(35),
    },
    PlantedBug {
        name: "refresh-without-revision",
        area: "planner",
        what: "A refresh on demand asks the nodes for nothing.",
        seed: Some(2),
    },
    PlantedBug {
        name: "gone-node-counted",
        area: "planner",
        what: "A node that is deleted stays in the counts of its caches.",
        seed: Some(4),
    },
    PlantedBug {
        name: "foreign-secret-named",
        area: "planner",
        what: "A message names the Secret of another namespace.",
        seed: Some(14),
    },
    PlantedBug {
        name: "old-report-trusted",
        area: "planner",
        what: "A report counts for an assignment that came after it.",
        seed: None,
    },
    PlantedBug {
        name: "time-of-another-condition",
        area: "planner",
        what: "A condition takes the time of another one.",
        seed: Some(8),
    },
    PlantedBug {
        name: "ready-while-lacking",
        area: "planner",
        what: "A cache stays Ready while a lost image is pulled again.",
        seed: Some(2),
    },
    PlantedBug {
        name: "deletion-waits-for-unreachable",
        area: "planner",
        what: "A deletion waits for nodes that are NotReady.",
        seed: None,
    },
    PlantedBug {
        name: "one-pull-too-many",
        area: "warmer",
        what: "One pull more than the limit runs.",
        seed: Some(1),
    },
    PlantedBug {
        name: "reading-too-old",
        area: "warmer",
        what: "A reading that began before a pull ended decides about its image.",
        seed: None,
    },
    PlantedBug {
        name: "eviction-unnoticed",
        area: "warmer",
        what: "An image that is missing in a reading stays Cached.",
        seed: Some(2),
    },
    PlantedBug {
        name: "use-ignored",
        area: "warmer",
        what: "An image that a container uses is removed.",
        seed: Some(10),
    },
    PlantedBug {
        name: "other-names-removed",
        area: "warmer",
        what: "An image is removed with names that are not fledged's.",
        seed: Some(35),
    },
    PlantedBug {
        name: "foreign-image-removed",
        area: "warmer",
        what: "An order to remove what was held removes what was not.",
        seed: None,
    },
    PlantedBug {
        name: "failed-removal-blocks",
        area: "warmer",
        what: "No removal starts after one has failed.",
        seed: None,
    },
    PlantedBug {
        name: "failed-round-not-retried",
        area: "warmer",
        what: "No round follows one that failed.",
        seed: None,
    },
    PlantedBug {
        name: "retry-after-forgotten",
        area: "warmer",
        what: "A registry's Retry-After delays only the image that met it.",
        seed: Some(400),
    },
    PlantedBug {
        name: "disk-full-for-a-day",
        area: "warmer",
        what: "A full disk stops the pulls of a node for a day.",
        seed: Some(44),
    },
    PlantedBug {
        name: "cancelled-pull-counts",
        area: "warmer",
        what: "A pull that is cancelled keeps its slot.",
        seed: Some(35),
    },
    PlantedBug {
        name: "failed-reading-not-repeated",
        area: "warmer",
        what: "A reading that failed is not repeated.",
        seed: None,
    },
    PlantedBug {
        name: "read-only-once",
        area: "warmer",
        what: "The images of a runtime are read once.",
        seed: Some(2),
    },
    PlantedBug {
        name: "pull-satisfies-later-refresh",
        area: "warmer",
        what: "A pull counts for a refresh that came after it began.",
        seed: None,
    },
    PlantedBug {
        name: "refresh-not-pulled",
        area: "warmer",
        what: "A new revision of a mutable tag is not pulled.",
        seed: Some(7),
    },
    PlantedBug {
        name: "stored-report-ignored",
        area: "reporter",
        what: "An agent that starts writes the report that is stored.",
        seed: Some(14),
    },
    PlantedBug {
        name: "change-during-write-lost",
        area: "reporter",
        what: "What changes during a write is not written.",
        seed: None,
    },
    PlantedBug {
        name: "progress-not-paced",
        area: "reporter",
        what: "Progress is written every second.",
        seed: Some(11),
    },
    PlantedBug {
        name: "record-gone-for-ever",
        area: "reporter",
        what: "Nothing is reported after a record was deleted.",
        seed: None,
    },
    PlantedBug {
        name: "failed-write-forgotten",
        area: "reporter",
        what: "A report that was not written is forgotten.",
        seed: None,
    },
    PlantedBug {
        name: "assignment-not-answered",
        area: "reporter",
        what: "A new assignment without a change is not acknowledged.",
        seed: Some(11),
    },
    PlantedBug {
        name: "expired-watch-not-listed",
        area: "agent",
        what: "A watch whose version has expired starts again without a list.",
        seed: None,
    },
    PlantedBug {
        name: "new-record-taken-for-old",
        area: "agent",
        what: "A new record with the generation of the old one is ignored.",
        seed: None,
    },
    PlantedBug {
        name: "missing-secret-remembered",
        area: "agent",
        what: "A Secret that was missing once is missing for ever.",
        seed: Some(2),
    },
    PlantedBug {
        name: "failed-report-taken-for-written",
        area: "agent",
        what: "A report that the API server refused counts as written.",
        seed: Some(16),
    },
    PlantedBug {
        name: "watch-starts-from-old-version",
        area: "agent",
        what: "A watch that starts again repeats events, which the agent follows.",
        seed: Some(11),
    },
    PlantedBug {
        name: "second-list-ignored",
        area: "agent",
        what: "What changed before a second list is missed.",
        seed: None,
    },
    PlantedBug {
        name: "replaced-node-unnoticed",
        area: "reconcile",
        what: "A node that another machine replaced is taken for the old one.",
        seed: None,
    },
    PlantedBug {
        name: "planned-before-all-lists",
        area: "reconcile",
        what: "The first plan does not wait for the records of nodes.",
        seed: Some(2),
    },
    PlantedBug {
        name: "status-of-deleted-cache",
        area: "reconcile",
        what: "The status of a deleted cache is written to a new one of its name.",
        seed: None,
    },
    PlantedBug {
        name: "failed-deletion-ignored",
        area: "reconcile",
        what: "The deletion of a record that failed counts as done.",
        seed: None,
    },
    PlantedBug {
        name: "report-of-equal-count-missed",
        area: "reconcile",
        what: "A report with as many cached images as the last one is ignored.",
        seed: Some(3),
    },
    PlantedBug {
        name: "older-write-repeated",
        area: "reconcile",
        what: "A write that failed replaces a newer one.",
        seed: None,
    },
    PlantedBug {
        name: "write-given-up",
        area: "reconcile",
        what: "A write is given up after two failures.",
        seed: None,
    },
    PlantedBug {
        name: "newer-write-dropped",
        area: "reconcile",
        what: "What is to be written during a write is dropped.",
        seed: None,
    },
    PlantedBug {
        name: "conflict-not-planned-again",
        area: "reconcile",
        what: "The planner does not learn of a conflict.",
        seed: Some(14),
    },
    PlantedBug {
        name: "deletion-in-a-gap-missed",
        area: "cluster client",
        what: "Objects that are deleted while a watch is interrupted stay known.",
        seed: None,
    },
    PlantedBug {
        name: "unavailable-taken-for-gone",
        area: "cluster client",
        what: "A write that the API server had no capacity for is given up.",
        seed: None,
    },
    PlantedBug {
        name: "lease-taken-too-early",
        area: "cluster client",
        what: "A candidate takes a Lease over that has not expired.",
        seed: Some(10),
    },
    PlantedBug {
        name: "leads-past-the-deadline",
        area: "cluster client",
        what: "A leader that cannot renew its Lease does not stop.",
        seed: Some(2),
    },
    PlantedBug {
        name: "lease-without-version",
        area: "cluster client",
        what: "A Lease is written whatever another candidate wrote.",
        seed: Some(1),
    },
    PlantedBug {
        name: "lost-lease-ignored",
        area: "cluster client",
        what: "A leader that finds another holder does not stop.",
        seed: None,
    },
    PlantedBug {
        name: "renewal-dated-by-answer",
        area: "cluster client",
        what: "A renewal counts from its answer.",
        seed: None,
    },
];
