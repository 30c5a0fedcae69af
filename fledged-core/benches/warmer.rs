//! What a node's state machine costs, by the number of images assigned.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod inputs;

use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use inputs::machine::Machine;

const IMAGES: [usize; 3] = [20, 200, 2_000];

/// An empty runtime, an assignment, and every pull to its end.
fn drive(c: &mut Criterion) {
    let mut group = c.benchmark_group("warmer/drive");
    for images in IMAGES {
        group.throughput(Throughput::Elements(images.try_into().unwrap()));
        group.bench_function(BenchmarkId::from_parameter(images), |b| {
            b.iter_with_large_drop(|| Machine::warm(images));
        });
    }
    group.finish();
}

/// A pull ends and the next begins.
fn pull_ended(c: &mut Criterion) {
    let mut group = c.benchmark_group("warmer/pull_ended");
    for images in IMAGES {
        group.bench_function(BenchmarkId::from_parameter(images), |b| {
            let mut machine = Machine::cold(images);
            b.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..iterations {
                    let event = machine.next_pull().unwrap_or_else(|| {
                        machine = Machine::cold(images);
                        machine.next_pull().unwrap()
                    });
                    let begun = Instant::now();
                    let commands = machine.apply(event);
                    elapsed += begun.elapsed();
                    assert!(commands > 0);
                }
                elapsed
            });
        });
    }
    group.finish();
}

/// A reading that finds everything as it was.
fn reading(c: &mut Criterion) {
    let mut group = c.benchmark_group("warmer/reading");
    for images in IMAGES {
        group.throughput(Throughput::Elements(images.try_into().unwrap()));
        group.bench_function(BenchmarkId::from_parameter(images), |b| {
            let mut machine = Machine::warm(images);
            let inventory = machine.inventory();
            b.iter_batched(
                || inventory.clone(),
                |inventory| {
                    machine.until_reading();
                    assert_eq!(machine.read(inventory), 0);
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = warmer;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = drive, pull_ended, reading
}
criterion_main!(warmer);
