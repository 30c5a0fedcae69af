//! Content and times of the reporter's writes, with a record that accepts every write.

use std::time::Duration;

use fledged_core::error::Reason;
use fledged_core::model::{AssignedImage, CacheId, ImagePhase, ImageReport, NodeReport};
use fledged_core::reporter::{Reporter, ReporterEvent};
use fledged_core::time::after;
use jiff::Timestamp;

/// A reporter, a virtual clock, and a record that accepts every write.
struct Node {
    reporter: Reporter,
    now: Timestamp,
    bytes: usize,
    report: NodeReport,
    /// Time in milliseconds since the start, and the written report.
    writes: Vec<(u64, NodeReport)>,
}

fn mk_image(number: usize, phase: ImagePhase) -> ImageReport {
    ImageReport::new(format!("r.example/app:{number}").parse().unwrap(), phase)
}

fn mk_failing(number: usize, phase: ImagePhase, reason: Reason, attempts: u32) -> ImageReport {
    mk_image(number, phase)
        .with_reason(reason)
        .with_attempts(attempts)
}

fn mk_report(generation: u64, images: Vec<ImageReport>) -> NodeReport {
    NodeReport::new(generation, images).with_record("uid-1".to_owned())
}

fn count(report: &NodeReport, phase: ImagePhase) -> usize {
    report.images.iter().filter(|r| r.phase == phase).count()
}

impl Node {
    fn new() -> Self {
        Self::with_seed(7)
    }

    fn with_seed(seed: u64) -> Self {
        Self {
            reporter: Reporter::new(seed),
            now: Timestamp::UNIX_EPOCH,
            bytes: 5_000,
            report: NodeReport::default(),
            writes: Vec::new(),
        }
    }

    fn apply(&mut self, event: ReporterEvent) {
        self.reporter.apply(event, self.now);
    }

    fn written(&mut self) {
        let bytes = self.bytes;
        self.apply(ReporterEvent::Written { bytes });
    }

    fn read(&mut self, record: &str, found: Option<NodeReport>) {
        let record = record.to_owned();
        self.apply(ReporterEvent::RecordRead { record, found });
    }

    fn assign(&mut self, report: NodeReport) {
        self.report = report.clone();
        self.apply(ReporterEvent::Observed(report));
    }

    fn change(&mut self, image: ImageReport) {
        let mut images = self.report.images.iter_mut();
        let known = images.find(|r| r.image == image.image).unwrap();
        *known = image;
        self.apply(ReporterEvent::Observed(self.report.clone()));
    }

    /// Advances the clock and performs the writes that become due.
    fn pass(&mut self, time: Duration) {
        let until = after(self.now, time);
        while let Some(due) = self.reporter.next_wakeup().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            if let Some(report) = self.reporter.poll(self.now) {
                let at = self.now.as_millisecond();
                self.writes.push((at.try_into().unwrap(), report));
                self.written();
            }
        }
        self.now = until;
    }

    fn pass_seconds(&mut self, seconds: f64) {
        self.pass(Duration::from_secs_f64(seconds));
    }

    fn last(&self) -> &NodeReport {
        &self.writes.last().unwrap().1
    }

    fn last_count(&self, phase: ImagePhase) -> usize {
        count(self.last(), phase)
    }

    fn gaps(&self) -> Vec<u64> {
        let times = self.writes.windows(2);
        times.map(|pair| pair[1].0 - pair[0].0).collect()
    }
}

/// Pulls images 1 to `count`, three at a time, within `seconds`.
fn roll_out(node: &mut Node, count: usize, seconds: f64) {
    let pending = (1..=count).map(|n| mk_image(n, ImagePhase::Pending));
    node.assign(mk_report(1, pending.collect()));
    let rounds = count.div_ceil(3);
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let each = seconds / rounds as f64;
    for round in 0..rounds {
        let images = (1..=count).skip(round * 3).take(3);
        for number in images.clone() {
            node.change(mk_image(number, ImagePhase::Pulling));
        }
        node.pass_seconds(each);
        for number in images {
            node.change(mk_image(number, ImagePhase::Cached));
        }
    }
    node.pass_seconds(600.0);
}

#[test]
fn a_rollout_of_20_images_in_14_seconds_takes_three_writes() {
    for seed in 0..50 {
        let mut node = Node::with_seed(seed);
        roll_out(&mut node, 20, 14.0);
        let times: Vec<u64> = node.writes.iter().map(|(at, _)| *at).collect();
        assert!(times.len() <= 3, "{times:?}");
        assert!((800..=1_200).contains(&times[0]), "{times:?}");
        assert!(
            (14_000..=15_100).contains(times.last().unwrap()),
            "{times:?}"
        );
        assert_eq!(node.last_count(ImagePhase::Cached), 20);
        assert_eq!(node.writes[0].1.observed_generation, 1);
    }
}

#[test]
fn longer_rollouts_are_written_less_often() {
    let mut node = Node::new();
    roll_out(&mut node, 300, 300.0);
    let gaps = node.gaps();
    assert!((8_000..=12_000).contains(&gaps[0]), "{gaps:?}");
    assert!((16_000..=24_000).contains(&gaps[1]), "{gaps:?}");
    for gap in &gaps[2..gaps.len() - 1] {
        assert!((24_000..=36_000).contains(gap), "{gaps:?}");
    }
    assert_eq!(node.last_count(ImagePhase::Cached), 300);
}

#[test]
fn images_already_present_are_reported_at_once() {
    let mut node = Node::new();
    node.assign(mk_report(1, vec![mk_image(1, ImagePhase::Pending)]));
    node.change(mk_image(1, ImagePhase::Cached));
    node.pass_seconds(60.0);
    assert_eq!(node.writes.len(), 1);
    assert!((50..=100).contains(&node.writes[0].0));
    // A new assignment with the same images is acknowledged at most once a second.
    node.assign(mk_report(2, vec![mk_image(1, ImagePhase::Cached)]));
    node.assign(mk_report(3, vec![mk_image(1, ImagePhase::Cached)]));
    node.pass_seconds(60.0);
    assert_eq!(node.writes.len(), 2);
    assert_eq!(node.last().observed_generation, 3);
    node.assign(mk_report(4, vec![]));
    node.assign(mk_report(5, vec![]));
    node.pass_seconds(600.0);
    assert_eq!(node.writes.len(), 3, "an idle node writes nothing");
    assert_eq!(node.last().images.len(), 0);
}

#[test]
fn a_restart_on_an_unchanged_node_writes_nothing() {
    let mut node = Node::new();
    let found = mk_report(4, vec![mk_image(1, ImagePhase::Cached)]);
    let pending = mk_report(4, vec![mk_image(1, ImagePhase::Pending)]);
    node.read("uid-1", Some(found));
    node.assign(pending);
    node.pass_seconds(0.5);
    node.change(mk_image(1, ImagePhase::Cached));
    node.pass_seconds(600.0);
    assert_eq!(node.writes, []);
}

#[test]
fn failures_are_written_soon_and_in_batches() {
    let mut node = Node::new();
    let pending = (1..=20).map(|n| mk_image(n, ImagePhase::Pending));
    node.assign(mk_report(1, pending.collect()));
    for number in 1..=20 {
        node.pass_seconds(0.3);
        let reason = Reason::Unauthorized;
        node.change(mk_failing(number, ImagePhase::Failed, reason, 1));
    }
    assert!(node.writes[0].0 <= 500, "{:?}", node.gaps());
    node.pass_seconds(60.0);
    assert!(
        node.gaps().iter().all(|gap| *gap >= 800),
        "{:?}",
        node.gaps()
    );
    assert!(node.writes.len() <= 5, "{:?}", node.gaps());
    assert_eq!(node.last_count(ImagePhase::Failed), 20);
}

/// A report with the namespaces of busy images: each image is of its own.
fn mk_busy(images: &[ImageReport]) -> NodeReport {
    let entries = images.iter().enumerate().filter(|(_, r)| r.phase.is_busy());
    let entries = entries.map(|(at, report)| {
        let id = CacheId::new(format!("ns-{at}"), "web", "uid");
        AssignedImage::present(report.image.clone()).with_wanted_by([id])
    });
    let entries: Vec<_> = entries.collect();
    mk_report(1, images.to_vec()).with_busy(&entries)
}

#[test]
fn the_end_for_one_namespace_is_written_soon() {
    use ImagePhase::{BackingOff, Cached, Pending, Pulling};
    let slow = [
        mk_image(1, Pulling),
        mk_failing(1, BackingOff, Reason::ConnectionFailed, 1),
    ];
    for slow in slow {
        let mut node = Node::new();
        let mut images = vec![slow];
        images.extend((2..=21).map(|n| mk_image(n, Pending)));
        node.assign(mk_busy(&images));
        node.pass_seconds(3.0);
        let writes = node.writes.len();
        images[1] = mk_image(2, Cached);
        node.assign(mk_busy(&images));
        node.pass_seconds(1.0);
        assert_eq!(node.writes.len(), writes + 1);
        assert_eq!(node.last_count(Cached), 1);
        // Many namespaces that end one after another are written together.
        for number in 3..=21 {
            images[number - 1] = mk_image(number, Cached);
            node.assign(mk_busy(&images));
            node.pass_seconds(1.0);
        }
        node.pass_seconds(120.0);
        assert_eq!(node.last_count(Cached), 20);
        assert!(node.writes.len() <= writes + 6, "{:?}", node.gaps());
    }
}

#[test]
fn a_failing_image_is_written_twice_a_minute_at_most() {
    let mut node = Node::new();
    let reason = Reason::TooManyRequests;
    node.assign(mk_report(1, vec![mk_image(1, ImagePhase::Pending)]));
    for attempt in 1..=120 {
        node.change(mk_image(1, ImagePhase::Pulling));
        node.pass_seconds(1.0);
        node.change(mk_failing(1, ImagePhase::BackingOff, reason, attempt));
        node.pass_seconds(4.0);
    }
    let fails = |report: &NodeReport| report.images[0].reason.is_some();
    let first = node.writes.iter().position(|(_, r)| fails(r)).unwrap();
    assert!(node.writes[first].0 <= 2_500);
    let gaps = &node.gaps()[first..];
    assert!(gaps.iter().all(|gap| *gap >= 24_000), "{gaps:?}");
    assert!(gaps.len() <= 25);
    // The end of the round is written at once.
    let writes = node.writes.len();
    node.change(mk_failing(1, ImagePhase::Failed, reason, 120));
    node.pass_seconds(2.0);
    assert_eq!(node.writes.len(), writes + 1);
    assert_eq!(node.last_count(ImagePhase::Failed), 1);
}

#[test]
fn repeated_failed_rounds_are_written_as_details() {
    let mut node = Node::new();
    let reason = Reason::ImageNotFound;
    node.assign(mk_report(1, vec![mk_image(1, ImagePhase::Pending)]));
    for round in 1..=20 {
        node.change(mk_image(1, ImagePhase::Pulling));
        node.pass_seconds(0.2);
        node.change(mk_failing(1, ImagePhase::Failed, reason, round));
        node.pass_seconds(59.8);
    }
    assert!(node.writes.len() <= 21, "{:?}", node.gaps());
    assert!(node.gaps().iter().all(|gap| *gap >= 24_000));
}

#[test]
fn a_lost_image_is_written_after_its_repair() {
    let mut node = Node::new();
    node.assign(mk_report(1, vec![mk_image(1, ImagePhase::Cached)]));
    node.pass_seconds(60.0);
    node.change(mk_image(1, ImagePhase::Pulling));
    node.pass_seconds(2.0);
    let mut back = mk_image(1, ImagePhase::Cached);
    back.attempts = 1;
    node.change(back);
    node.pass_seconds(60.0);
    let written = node.writes.iter();
    let counts: Vec<_> = written.map(|(_, r)| count(r, ImagePhase::Cached)).collect();
    assert_eq!(counts, [1, 1]);
    // If the pull takes longer, the missing image is written.
    node.change(mk_image(1, ImagePhase::Pulling));
    node.pass_seconds(20.0);
    assert_eq!(node.last_count(ImagePhase::Cached), 0);
}

#[test]
fn larger_records_are_written_less_often() {
    let mut node = Node::new();
    node.bytes = 1_200_000;
    node.assign(mk_report(1, vec![mk_image(1, ImagePhase::Cached)]));
    node.pass_seconds(1.0);
    node.assign(mk_report(2, vec![mk_image(1, ImagePhase::Cached)]));
    node.pass_seconds(60.0);
    assert_eq!(node.gaps(), [12_000]);
}

#[test]
fn a_failed_write_is_retried_with_the_latest_state() {
    let mut node = Node::new();
    node.assign(mk_report(1, vec![mk_image(1, ImagePhase::Pending)]));
    node.now = after(node.now, Duration::from_secs(2));
    assert!(node.reporter.poll(node.now).is_some());
    node.change(mk_image(1, ImagePhase::Cached));
    assert_eq!(node.reporter.next_wakeup(), None, "one at a time");
    let retry_at = after(node.now, Duration::from_secs(20));
    node.apply(ReporterEvent::Failed { retry_at });
    node.pass_seconds(60.0);
    assert_eq!(node.writes.len(), 1);
    assert_eq!(node.writes[0].0, 22_000);
    assert_eq!(node.last_count(ImagePhase::Cached), 1);
}

#[test]
fn changes_during_a_write_are_written_next() {
    let mut node = Node::new();
    node.assign(mk_report(1, vec![mk_image(1, ImagePhase::Pending)]));
    node.now = after(node.now, Duration::from_secs(2));
    assert!(node.reporter.poll(node.now).is_some());
    node.change(mk_image(1, ImagePhase::Cached));
    node.written();
    node.pass_seconds(60.0);
    assert_eq!(node.writes.len(), 1);
    assert_eq!(node.last_count(ImagePhase::Cached), 1);
}

/// Returns the record of the write that is due.
fn written_to(node: &mut Node) -> String {
    node.reporter.poll(node.now).unwrap().record.unwrap()
}

#[test]
fn a_deleted_record_is_not_written_to() {
    let mut node = Node::new();
    node.assign(mk_report(1, vec![mk_image(1, ImagePhase::Cached)]));
    node.now = after(node.now, Duration::from_secs(1));
    assert_eq!(written_to(&mut node), "uid-1");
    node.apply(ReporterEvent::RecordGone);
    node.change(mk_failing(1, ImagePhase::Failed, Reason::Evicted, 1));
    node.pass_seconds(60.0);
    assert_eq!(node.writes, []);
    let report = mk_report(1, vec![mk_image(1, ImagePhase::Cached)]);
    node.assign(report.with_record("uid-2".to_owned()));
    node.now = after(node.now, Duration::from_secs(1));
    assert_eq!(written_to(&mut node), "uid-2");
    node.written();
    node.assign(NodeReport::default());
    assert_eq!(
        (node.reporter.next_wakeup(), node.reporter.final_flush()),
        (None, None)
    );
}

#[test]
fn a_write_to_an_older_record_does_not_count() {
    let mut node = Node::new();
    node.assign(mk_report(1, vec![mk_image(1, ImagePhase::Cached)]));
    node.now = after(node.now, Duration::from_secs(1));
    assert!(node.reporter.poll(node.now).is_some());
    let report = mk_report(1, vec![mk_image(1, ImagePhase::Cached)]);
    node.assign(report.with_record("uid-2".to_owned()));
    node.written();
    node.pass_seconds(60.0);
    assert_eq!(node.writes.len(), 1, "the new object is written as well");
}

#[test]
fn a_restored_record_is_written_again() {
    let mut node = Node::new();
    let report = mk_report(1, vec![mk_image(1, ImagePhase::Cached)]);
    node.assign(report.clone());
    node.pass_seconds(60.0);
    node.read("uid-1", Some(report));
    node.pass_seconds(60.0);
    assert_eq!(node.writes.len(), 1, "the record already has this report");
    node.read("uid-1", None);
    node.pass_seconds(60.0);
    assert_eq!(node.writes.len(), 2);
}

#[test]
fn the_last_state_is_always_written_at_most_once_a_second() {
    use ImagePhase::{BackingOff, Cached, Failed, Pending, Pulling};
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut node = Node::with_seed(seed);
        let mut images: Vec<ImageReport> = (1..=6).map(|n| mk_image(n, Pending)).collect();
        let mut generation = 1;
        node.assign(mk_report(generation, images.clone()));
        for _ in 0..200 {
            node.pass(Duration::from_millis(rng.u64(0..5_000)));
            if rng.u8(..) < 10 {
                generation += 1;
                node.assign(mk_report(generation, images.clone()));
                continue;
            }
            let number = rng.usize(0..6);
            let phase = [Pending, Pulling, BackingOff, Cached, Failed][rng.usize(0..5)];
            images[number] = match phase {
                BackingOff | Failed => {
                    let reason = [Reason::RegistryError, Reason::ConnectionFailed];
                    mk_failing(number + 1, phase, reason[rng.usize(0..2)], rng.u32(0..9))
                }
                _ => mk_image(number + 1, phase),
            };
            node.change(images[number].clone());
        }
        node.pass_seconds(120.0);
        let expected = mk_report(generation, images);
        assert_eq!(node.last(), &expected, "seed {seed}");
        assert!(node.gaps().iter().all(|gap| *gap >= 1_000), "seed {seed}");
        let before = node.writes.len();
        node.pass_seconds(3_600.0);
        assert_eq!(node.writes.len(), before, "seed {seed}");
    }
}

#[test]
fn frequent_assignments_do_not_defer_reports() {
    for gap in [0.2, 0.4, 0.9, 1.1] {
        let mut node = Node::new();
        let mut generation = 0;
        while node.now < after(Timestamp::UNIX_EPOCH, Duration::from_secs(60)) {
            generation += 1;
            // One image is pulled all the time, one was pulled, one comes and goes.
            let mut images = vec![
                mk_image(1, ImagePhase::Pulling),
                mk_image(2, ImagePhase::Cached),
            ];
            if generation % 2 == 0 {
                images.push(mk_image(3, ImagePhase::Pending));
            }
            node.assign(mk_report(generation, images));
            node.pass_seconds(gap);
        }
        let longest = node.gaps().into_iter().max().unwrap();
        assert!(
            longest <= 3_000,
            "no report for {longest} ms, edits each {gap} s"
        );
        assert!(
            node.writes[0].0 <= 2_000,
            "first report after {} ms",
            node.writes[0].0
        );
        assert_eq!(node.last_count(ImagePhase::Cached), 1);
    }
}
