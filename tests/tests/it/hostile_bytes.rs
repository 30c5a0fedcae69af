//! No input makes a parser of untrusted bytes panic: the committed corpora, and mutations of them.

use std::collections::BTreeSet;
use std::fs;

use fledged_tests::hostile_bytes::{Mutator, TARGETS, corpus, corpus_root, run};

/// Mutations of each target; together they take some seconds.
const MUTATIONS: usize = 2_000;

#[test]
fn every_corpus_belongs_to_a_target() {
    let folders = fs::read_dir(corpus_root()).unwrap();
    let folders = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap());
    let names = TARGETS.iter().map(|target| target.name.to_owned());
    assert_eq!(
        folders.collect::<BTreeSet<_>>(),
        names.collect::<BTreeSet<_>>()
    );
}

#[test]
fn no_input_of_a_corpus_makes_a_parser_panic() {
    for target in TARGETS {
        for input in corpus(target) {
            let text = String::from_utf8_lossy(&input);
            run(target, &input).unwrap_or_else(|e| panic!("{}: {e}: {text:?}", target.name));
        }
    }
}

#[test]
fn no_mutation_makes_a_parser_panic() {
    for target in TARGETS {
        let mut mutator = Mutator::new(corpus(target), 7);
        for _ in 0..MUTATIONS {
            let input = mutator.next_input();
            let text = String::from_utf8_lossy(&input);
            run(target, &input).unwrap_or_else(|e| panic!("{}: {e}: {text:?}", target.name));
        }
    }
}

#[test]
fn each_target_keeps_its_limits_of_time_and_memory() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_fuzz"))
        .args(["--seconds", "1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    for target in TARGETS {
        assert!(text.contains(&format!("{} ", target.name)), "{text}");
    }
}
