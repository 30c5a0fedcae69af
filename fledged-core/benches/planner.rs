//! Costs of the planner, by number of nodes and images.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod inputs;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use fledged_core::planner::{ClusterCommand, ClusterEvent};
use inputs::fleet::{Fleet, Size, assignments, statuses};

const SIZES: [Size; 3] = [mk_size(100, 20), mk_size(1_000, 20), mk_size(5_000, 20)];
const HEADLINE: Size = mk_size(5_000, 100);

const fn mk_size(nodes: usize, images: usize) -> Size {
    Size { nodes, images }
}

/// Measures events, each followed by a poll. `event` creates the next one, which is not measured; `check`
/// verifies the commands.
fn events(
    group: &mut BenchmarkGroup<'_, WallTime>,
    size: Size,
    fleet: Fleet,
    mut event: impl FnMut(&mut Fleet) -> ClusterEvent,
    check: impl Fn(&[ClusterCommand]),
) {
    let fleet = RefCell::new(fleet);
    group.bench_function(BenchmarkId::from_parameter(size), |b| {
        b.iter_batched(
            || event(&mut fleet.borrow_mut()),
            |event| {
                let commands = fleet.borrow_mut().apply(event);
                check(&commands);
                commands
            },
            BatchSize::PerIteration,
        );
    });
}

/// All nodes and caches in one poll, as after a start.
fn full_plan(c: &mut Criterion) {
    let mut group = c.benchmark_group("planner/full_plan");
    for size in SIZES.into_iter().chain([HEADLINE]) {
        group.throughput(Throughput::Elements(size.pairs()));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_batched(
                || Fleet::cold(size),
                |mut fleet| {
                    let commands = fleet.plan();
                    let (nodes, images) = (size.nodes, size.nodes * size.images);
                    assert_eq!(assignments(&commands), (nodes, images));
                    (fleet, commands)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn node_joins(c: &mut Criterion) {
    let mut group = c.benchmark_group("planner/node_joins");
    for size in SIZES.into_iter().chain([HEADLINE]) {
        let joining = |fleet: &mut Fleet| {
            fleet.leave();
            fleet.joining()
        };
        let check = |commands: &[ClusterCommand]| {
            assert_eq!(assignments(commands), (1, size.images));
        };
        events(&mut group, size, Fleet::warm(size), joining, check);
    }
    group.finish();
}

/// A node joins a pool that another cache selects, or leaves it.
fn node_relabelled(c: &mut Criterion) {
    let mut group = c.benchmark_group("planner/node_relabelled");
    for size in SIZES.into_iter().chain([HEADLINE]) {
        let mut pool = 0;
        let moved = move |fleet: &mut Fleet| {
            pool = 1 - pool;
            fleet.moved(pool)
        };
        let fleet = Fleet::warm_with_pool(size);
        events(&mut group, size, fleet, moved, |commands| {
            assert_eq!(assignments(commands).0, 1);
        });
    }
    group.finish();
}

/// A node is applied unchanged.
fn heartbeat(c: &mut Criterion) {
    let mut group = c.benchmark_group("planner/heartbeat");
    for size in SIZES.into_iter().chain([HEADLINE]) {
        let beat = |fleet: &mut Fleet| fleet.heartbeat();
        events(&mut group, size, Fleet::warm(size), beat, |commands| {
            assert_eq!(commands, []);
        });
    }
    group.finish();
}

/// A node reports an image as missing, or as back. No status is due.
fn report(c: &mut Criterion) {
    let mut group = c.benchmark_group("planner/report");
    for size in SIZES.into_iter().chain([HEADLINE]) {
        let mut whole = true;
        let report = move |fleet: &mut Fleet| {
            whole = !whole;
            fleet.report(whole)
        };
        events(&mut group, size, Fleet::warm(size), report, |commands| {
            assert_eq!(assignments(commands), (0, 0));
        });
    }
    group.finish();
}

/// The same, with the status of its cache due.
fn report_and_status(c: &mut Criterion) {
    let mut group = c.benchmark_group("planner/report_and_status");
    for size in SIZES.into_iter().chain([HEADLINE]) {
        let mut fleet = Fleet::warm(size);
        let mut whole = true;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..iterations {
                    whole = !whole;
                    let report = fleet.report(whole);
                    let begun = Instant::now();
                    let commands = fleet.apply(report);
                    elapsed += begun.elapsed();
                    assert_eq!(statuses(&commands), 1);
                    fleet.record(&commands);
                    // Until the recorded status is checked.
                    assert_eq!(fleet.pass(Duration::from_secs(12)), []);
                }
                elapsed
            });
        });
    }
    group.finish();
}

/// An edit of a cache that matches 1 % of the nodes.
fn edit_of_few(c: &mut Criterion) {
    let mut group = c.benchmark_group("planner/edit_of_1_percent");
    for size in SIZES.into_iter().chain([HEADLINE]) {
        let mut generation = 1;
        let edit = move |fleet: &mut Fleet| {
            generation += 1;
            fleet.edit_pool(generation)
        };
        let fleet = Fleet::warm_with_pool(size);
        events(&mut group, size, fleet, edit, |commands| {
            assert_eq!(assignments(commands).0, size.nodes / 100);
        });
    }
    group.finish();
}

/// An edit of a cache that matches every node.
fn edit_of_all(c: &mut Criterion) {
    let mut group = c.benchmark_group("planner/edit_of_all");
    for size in SIZES.into_iter().chain([HEADLINE]) {
        let mut generation = 1;
        let edit = move |fleet: &mut Fleet| {
            generation += 1;
            fleet.edit(generation)
        };
        group.throughput(Throughput::Elements(size.pairs()));
        events(&mut group, size, Fleet::warm(size), edit, |commands| {
            assert_eq!(assignments(commands).0, size.nodes);
        });
    }
    group.finish();
}

criterion_group! {
    name = planner;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = full_plan, node_joins, node_relabelled, heartbeat, report, report_and_status, edit_of_few,
        edit_of_all
}
criterion_main!(planner);
