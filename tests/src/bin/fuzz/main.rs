//! Runs the parsers with mutated inputs: `cargo run -p fledged-tests --bin fuzz`.
//!
//! Each target runs in a process of its own, so that an abort (a stack overflow, a failed allocation) is found and
//! the peak memory is that target's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use clap::Parser;
use fledged_tests::arguments::{CheckedArgs, Given, number};
use fledged_tests::hostile_bytes::{Mutator, TARGETS, Target, corpus, run, target};

/// Longest time for one input. The slowest of this machine's take a few milliseconds in a debug build.
const INPUT_LIMIT: Duration = Duration::from_secs(1);
/// Time after which an input counts as one that never ends.
const HANG: Duration = Duration::from_secs(10);
/// Most memory of a target's process in MiB: the program itself, and what one input of 64 KiB may cost.
const MEMORY_LIMIT_MIB: u64 = 256;

/// Runs every parser of untrusted bytes with mutations of its corpus. Exits with 1 if one panics, aborts, takes
/// longer than 1 s for an input or more than 256 MiB; the input is kept in a file.
#[derive(Debug, Parser)]
#[command(name = "fuzz")]
struct Args {
    /// Seconds for each target.
    #[arg(long, default_value_t = 10, value_parser = number::<u64>(1..=31_536_000))]
    seconds: u64,
    /// Only this target.
    #[arg(long, value_parser = known)]
    target: Option<&'static Target>,
    /// Seed of the mutations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs one input from a file, once.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Runs the target in this process and keeps the current input in this file.
    #[arg(long, hide = true, requires = "target")]
    current: Option<PathBuf>,
}

impl CheckedArgs for Args {
    fn check(&self, given: &Given) -> Result<(), String> {
        if self.target.is_none() {
            given.refuse(&["input"], "without --target")?;
        }
        match self.input {
            Some(_) => given.refuse(&["seconds", "seed", "current"], "with --input"),
            None => Ok(()),
        }
    }
}

fn known(name: &str) -> Result<&'static Target, String> {
    target(name).ok_or_else(|| {
        let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        format!("unknown target; known: {}", known.join(", "))
    })
}

fn main() -> ExitCode {
    let args = Args::from_command_line();
    let chosen: Vec<&Target> = match args.target {
        None => TARGETS.iter().collect(),
        Some(target) => vec![target],
    };
    match (&args.input, &args.current, chosen.as_slice()) {
        (Some(input), _, [target]) => {
            let bytes = match fs::read(input) {
                Ok(bytes) => bytes,
                Err(error) => {
                    eprintln!("--input {}: {error}", input.display());
                    return ExitCode::from(2);
                }
            };
            exit_code(check(target, &bytes, &watchdog(target)).is_ok())
        }
        (None, Some(current), [target]) => child(target, &args, current),
        _ => {
            let failed = chosen.iter().filter(|target| !parent(target, &args));
            exit_code(failed.count() == 0)
        }
    }
}

fn exit_code(passed: bool) -> ExitCode {
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs a target in a process of its own. Whether it passed.
fn parent(target: &Target, args: &Args) -> bool {
    // A new name for each run: a later one must not overwrite an input that failed.
    let file = format!("fledged-fuzz-{}-{}", target.name, std::process::id());
    let current = std::env::temp_dir().join(file);
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--target", target.name])
        .args(["--seconds", &args.seconds.to_string()])
        .args(["--seed", &args.seed.to_string()])
        .arg("--current")
        .arg(&current)
        .status()
        .unwrap();
    if status.success() {
        let _ = fs::remove_file(&current);
        return true;
    }
    if status.code() == Some(2) {
        println!("{}: not tested", target.name);
        return false;
    }
    println!("{}: FAILED ({status}); run it again with:", target.name);
    println!(
        "  cargo run -p fledged-tests --bin fuzz -- --target {} --input {}",
        target.name,
        current.display()
    );
    false
}

/// Runs a target until the time is up, and prints a line.
fn child(target: &Target, args: &Args, current: &Path) -> ExitCode {
    let mut file = match File::create(current) {
        Ok(file) => file,
        Err(error) => return not_written(current, &error),
    };
    let mut mutator = Mutator::new(corpus(target), args.seed);
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let (mut inputs, mut slowest) = (0_u64, Duration::ZERO);
    let watchdog = watchdog(target);
    while Instant::now() < until {
        let input = mutator.next_input();
        if let Err(error) = write(&mut file, &input) {
            return not_written(current, &error);
        }
        match check(target, &input, &watchdog) {
            Ok(took) => slowest = slowest.max(took),
            Err(()) => return ExitCode::FAILURE,
        }
        inputs += 1;
    }
    let peak = peak_mib();
    println!(
        "{:20} {inputs:9} inputs, slowest {:6.1} ms, peak memory {peak} MiB",
        target.name,
        slowest.as_secs_f64() * 1e3
    );
    ExitCode::SUCCESS
}

/// Writes the input before its run: an abort leaves no other trace.
fn write(file: &mut File, input: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(input)
}

/// A full disk says nothing about the target.
fn not_written(current: &Path, error: &io::Error) -> ExitCode {
    println!("cannot write {}: {error}", current.display());
    ExitCode::from(2)
}

/// Ends the process if an input takes too long: each message is the end of one.
fn watchdog(target: &Target) -> Sender<()> {
    let (ended, inputs) = mpsc::channel();
    let name = target.name;
    std::thread::spawn(move || {
        loop {
            match inputs.recv_timeout(HANG) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    println!("{name}: one input took more than {} s", HANG.as_secs());
                    std::process::exit(1);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    ended
}

/// Runs one input. Returns the time that it took.
fn check(target: &Target, input: &[u8], watchdog: &Sender<()>) -> Result<Duration, ()> {
    let started = Instant::now();
    let result = run(target, input);
    let took = started.elapsed();
    watchdog.send(()).unwrap();
    let peak = peak_mib();
    if peak > MEMORY_LIMIT_MIB {
        println!("{}: {peak} MiB, more than {MEMORY_LIMIT_MIB}", target.name);
        return Err(());
    }
    if let Err(panic) = result {
        println!("{}: {panic}", target.name);
        return Err(());
    }
    if took > INPUT_LIMIT {
        println!("{}: one input took {took:?}", target.name);
        return Err(());
    }
    Ok(took)
}

/// The largest resident memory of this process so far.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap() / 1024
}
