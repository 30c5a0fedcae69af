//! Coverage-guided fuzzing of one target of `fledged_tests::hostile_bytes`, which `FUZZ_TARGET` names.
#![no_main]

use std::sync::LazyLock;

use fledged_tests::hostile_bytes::{Target, target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        eprintln!("FUZZ_TARGET={name}: no such target; fuzz/corpus has a folder for each");
        std::process::exit(2);
    })
});

fuzz_target!(
    // Before libFuzzer runs, which takes an exit for a crash.
    init: LazyLock::force(&TARGET),
    |bytes: &[u8]| (TARGET.run)(bytes)
);
