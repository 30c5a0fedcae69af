//! A short campaign of faults against real parts. `docs/testing.md` has what it promises, and how to run a long one.

use std::sync::Arc;

use fledged_tests::campaign::{NEEDED, Options, run};
use fledged_tests::require;

#[test]
fn real_parts_converge_after_random_faults() {
    if !require(&NEEDED) {
        return;
    }
    let folder = std::env::temp_dir().join(format!("fledged-campaign-it-{}", std::process::id()));
    let outcome = run(&Options {
        seed: 1,
        faults: 40,
        budget: None,
        folder: folder.clone(),
        verbose: false,
        stop: Arc::default(),
    });
    let failures = outcome.failures();
    assert!(
        failures.is_empty(),
        "{failures:#?}\n{outcome}\nhistory and logs are in {}",
        folder.display()
    );
    assert!(outcome.injected() >= 40, "{outcome}");
    assert!(outcome.convergences() > 1, "{outcome}");
    std::fs::remove_dir_all(folder).unwrap();
}
