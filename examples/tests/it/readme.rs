//! The README names every program and every manifest, and how to try it.
use std::path::Path;

/// Names of a folder's entries without their endings.
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
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| [`{program}`]")));
        let row = row.unwrap_or_else(|| panic!("{program} has no row"));
        let command = format!("`cargo run -p fledged-examples --bin {program} -- ");
        assert!(row.contains(&command), "{program}: how is it tried?");
    }
    for manifest in names("manifests") {
        let row = format!("| [`{manifest}.yaml`](manifests/{manifest}.yaml) |");
        assert!(readme.contains(&row), "{manifest} has no row");
    }
}

#[test]
fn every_manifest_says_what_it_is_for() {
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
