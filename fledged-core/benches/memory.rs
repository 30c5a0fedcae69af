//! What a planner of 5,000 nodes x 100 images takes: bytes of each (image, node) pair, and the peak.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod inputs;

use inputs::fleet::{Fleet, Size};

const MIB: f64 = 1_048_576.0;

fn main() {
    // `cargo test --benches` only wants to see that it runs.
    let size = match std::env::args().any(|arg| arg == "--bench") {
        true => Size {
            nodes: 5_000,
            images: 100,
        },
        false => Size {
            nodes: 100,
            images: 20,
        },
    };
    let Some(before) = resident("VmRSS:") else {
        println!("memory: /proc/self/status is needed");
        return;
    };
    let fleet = Fleet::warm(size);
    let held = resident("VmRSS:").unwrap().saturating_sub(before);
    let peak = resident("VmHWM:").unwrap();
    drop(fleet);
    let mib = |bytes: u64| {
        let bytes = f64::from(u32::try_from(bytes / 1_024).unwrap()) * 1_024.0;
        format!("{:.0} MiB", bytes / MIB)
    };
    println!(
        "memory of a planner of {size}: {} bytes a pair, {} held, {} at the peak",
        held / size.pairs(),
        mib(held),
        mib(peak)
    );
}

/// A figure of this process, in bytes, from `proc_pid_status(5)`.
fn resident(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1_024)
}
