//! Coverage-guided fuzzing of one target of `fledged_tests::hostile_bytes`, which `FUZZ_TARGET` names.
#![no_main]

use std::sync::LazyLock;

use fledged_tests::hostile_bytes::{Target, target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    target(&name).unwrap_or_else(|| panic!("unknown target {name:?}"))
});

fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
