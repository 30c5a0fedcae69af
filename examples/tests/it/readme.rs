//! The README of the examples lists every program and every manifest, with the command that runs it.
use std::path::Path;

/// Names of a directory's entries, without extensions.
fn names(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().path());
    let names = names.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    names.collect()
}

#[test]
fn every_example_has_a_row() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let programs = names("src/bin");
    assert_eq!(programs.len(), 4, "{programs:?}");
    for program in programs {
        let has = |start: &str| readme.lines().any(|line| line.starts_with(start));
        assert!(has(&format!("| [`{program}`]")), "{program} has no row");
        let command = format!("cargo run -p fledged-examples --bin {program} -- ");
        assert!(has(&command), "{program} has no command");
    }
    for manifest in names("manifests") {
        let row = format!("| [`{manifest}.yaml`](manifests/{manifest}.yaml) |");
        assert!(readme.contains(&row), "{manifest} has no row");
    }
}

#[test]
fn code_on_other_pages_is_from_warm_node() {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        std::fs::read_to_string(path).unwrap()
    };
    let program = read("src/bin/warm-node.rs");
    for page in ["../README.md", "../docs/library.md"] {
        let text = read(page);
        let code = text.split("```rust\n").nth(1).unwrap();
        let code = code.split("```").next().unwrap();
        let mut lines = program.lines().map(str::trim);
        for line in code.lines().map(str::trim) {
            assert!(lines.any(|other| other == line), "{page}: {line}");
        }
    }
}

#[test]
fn every_manifest_begins_with_a_description() {
    for name in names("manifests") {
        let path = format!("{}/manifests/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let comments = text.lines().take_while(|line| line.starts_with('#'));
        let comments: Vec<&str> = comments.collect();
        assert!(comments.len() > 3, "{name}");
        let command = format!("#   kubectl apply -f {name}.yaml");
        assert!(comments.contains(&command.as_str()), "{name}: {command}");
    }
}
