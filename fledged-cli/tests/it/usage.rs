//! Help, completions and manual pages, and exit code 2 for invalid input.

use crate::support::{Run, TestBed, command, fledged, fledged_with_stdin, manifest};

/// The commands for a cluster.
const CLUSTER: [&str; 8] = [
    "get", "status", "wait", "refresh", "purge", "why", "plan", "doctor",
];

#[test]
fn every_command_has_help_with_examples() {
    let mut cluster: Vec<Vec<&str>> = Vec::new();
    if cfg!(feature = "cluster") {
        cluster.extend(CLUSTER.map(|name| vec![name]));
        cluster.push(vec!["node", "status"]);
    }
    let others = [
        vec!["node", "apply"],
        vec!["node", "doctor"],
        vec!["node", "list"],
        vec!["node", "purge"],
        vec!["node", "run"],
        vec!["check"],
        vec!["demo"],
        vec!["completions"],
        vec!["man"],
        vec![],
    ];
    for command in others.into_iter().chain(cluster) {
        let mut args = command.clone();
        args.push("--help");
        let run = fledged(&args).expect_code(0);
        assert!(run.stdout.contains("Examples:"), "{command:?}");
        assert!(
            run.stdout
                .contains(&format!("fledged {}", command.join(" "))),
            "{command:?}"
        );
    }
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let run = fledged(&["completions", shell]).expect_code(0);
        assert!(run.stdout.contains("fledged"), "{shell}");
        if cfg!(feature = "cluster") {
            for name in CLUSTER {
                assert!(run.stdout.contains(name), "{shell}: {name}");
            }
        }
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let page = fledged(&["man"]).expect_code(0).stdout;
    assert!(page.contains(".TH fledged 1"), "{page}");
    let bed = TestBed::new();
    let folder = bed.folder.path().join("share/man1");
    fledged(&["man", "--directory", folder.to_str().unwrap()]).expect_code(0);
    let mut pages = vec![
        "",
        "-node",
        "-node-apply",
        "-node-doctor",
        "-node-run",
        "-check",
        "-demo",
    ];
    if cfg!(feature = "cluster") {
        pages.extend(["-get", "-status", "-why", "-plan", "-doctor"]);
    }
    for page in pages {
        let text = std::fs::read_to_string(folder.join(format!("fledged{page}.1"))).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let file = bed.write("file", "");
    fledged(&["man", "--directory", &file])
        .expect_code(1)
        .expect_stderr(&["--directory", &file]);
}

#[cfg(feature = "cluster")]
#[test]
fn the_kubectl_plugin_starts_the_program_beside_it() {
    let plugin = env!("CARGO_BIN_EXE_kubectl-fledged");
    let run: Run = std::process::Command::new(plugin)
        .args(["status", "--help"])
        .output()
        .unwrap()
        .into();
    let run = run.expect_code(0);
    assert!(
        run.stdout.contains("Usage: kubectl fledged status"),
        "{}",
        run.stdout
    );

    let bed = TestBed::new();
    let alone = bed.folder.path().join("kubectl-fledged");
    std::fs::copy(plugin, &alone).unwrap();
    let run: Run = std::process::Command::new(alone)
        .env("PATH", bed.folder.path())
        .output()
        .unwrap()
        .into();
    run.expect_code(1)
        .expect_stderr(&["cannot start fledged", "cargo install"]);
}

#[test]
fn invalid_arguments_are_named_with_exit_code_2() {
    let bed = TestBed::new();
    let file = bed.write("images.yaml", &manifest(&["nginx:1".to_owned()]));
    for (args, parts) in [
        (vec!["node", "apply"], vec!["--filename"]),
        (
            vec!["node", "apply", "-f", &file, "--deadline", "5 minutes"],
            vec!["5 minutes", "1h30m"],
        ),
        (
            vec!["node", "apply", "-f", &file, "--deadline", "0s"],
            vec!["at least 1s"],
        ),
        (
            vec!["node", "apply", "-f", &file, "--max-parallel-pulls", "0"],
            vec!["'0' for '--max-parallel-pulls <N>': must be a number from 1 up"],
        ),
        (
            vec!["check", "-f", &file, "--max-parallel-checks", "0"],
            vec!["'0' for '--max-parallel-checks <N>': must be a number from 1 up"],
        ),
        (
            vec!["node", "apply", "-f", &file, "--node-label", "tier"],
            vec!["'tier'", "KEY=VALUE"],
        ),
        (
            vec!["node", "apply", "-f", &file, "--node-name", "A_b"],
            vec!["A_b", "DNS subdomain"],
        ),
        (
            vec!["node", "apply", "-f", &file, "--platform", "amd64"],
            vec!["'amd64'", "os/architecture"],
        ),
        (
            vec!["node", "apply", "-f", &file, "-o", "xml"],
            vec!["'xml'", "json"],
        ),
        (
            vec!["node", "apply", "-f", &file, "--runtime", "ftp://x"],
            vec!["ftp://x", "unix://", "docker://", "oci:"],
        ),
        (
            vec!["node", "apply", "-f", &file, "--runtime", "oci:"],
            vec!["oci:"],
        ),
        (
            vec!["check", "-f", &file, "--insecure-registry", "http://x"],
            vec!["http://x", "registry.local:5000"],
        ),
        (
            vec!["check", "-f", &file, "--registry-ca", "/does/not/exist"],
            vec!["/does/not/exist"],
        ),
        (
            vec!["check", "-f", &file, "--plain-http", "http://x"],
            vec!["http://x", "registry.local:5000"],
        ),
        (
            vec!["check", "-f", &file, "--registry-config", "/does/not/exist"],
            vec!["/does/not/exist"],
        ),
        (vec!["node", "run", "-f", "-"], vec!["stdin", "-f"]),
        (vec!["completions", "tcsh"], vec!["'tcsh'", "zsh"]),
    ] {
        fledged(&args).expect_code(2).expect_stderr(&parts);
    }
}

#[cfg(feature = "cluster")]
#[test]
fn invalid_object_names_are_refused() {
    for name in [
        "storefront#",
        "storefront?x=1",
        "../..",
        "",
        "A",
        "a b",
        "a/b/c",
    ] {
        let shown = format!("invalid value '{name}' for '<NAME>': ");
        let rule = "not a valid object name";
        for command in ["status", "refresh", "purge"] {
            fledged(&[command, name])
                .expect_code(2)
                .expect_stderr(&[&shown, rule]);
        }
        fledged(&["wait", name, "--for", "cached"])
            .expect_code(2)
            .expect_stderr(&[&shown, rule]);
        fledged(&["why", name, "node-1", "nginx"])
            .expect_code(2)
            .expect_stderr(&[&shown, rule]);
        let optional = shown.replace("<NAME>", "[NAME]");
        fledged(&["get", name])
            .expect_code(2)
            .expect_stderr(&[&optional, rule]);
    }
    for (args, hint) in [
        (
            vec!["status", "storefront/status"],
            "write -n storefront status",
        ),
        (vec!["get", "shop/storefront"], "write -n shop storefront"),
        (
            vec!["why", "default/storefront", "node-1", "nginx"],
            "write -n default storefront",
        ),
    ] {
        fledged(&args)
            .expect_code(2)
            .expect_stderr(&[args[1], hint]);
    }
    for namespace in ["a/b", "A B", "", "a.b"] {
        let shown = format!("invalid value '{namespace}' for '--namespace <NAMESPACE>': ");
        fledged(&["get", "-n", namespace])
            .expect_code(2)
            .expect_stderr(&[&shown, "not a valid namespace name"]);
    }
}

#[cfg(feature = "cluster")]
#[test]
fn the_path_of_a_kubeconfig_is_quoted_once() {
    let run = fledged(&["get", "--kubeconfig", "/does/not/exist"])
        .expect_code(2)
        .expect_stderr(&[
            "--kubeconfig /does/not/exist: ",
            "from \"/does/not/exist\": ",
        ]);
    assert!(!run.stderr.contains('\''), "{}", run.stderr);
}

#[test]
fn an_invalid_registry_config_is_not_printed() {
    let bed = TestBed::new();
    let file = bed.write("images.yaml", &manifest(&["nginx:1".to_owned()]));
    let config = bed.write(
        "config.json",
        "{\"auths\": {\"x\": {\"auth\": \"c2VjcmV0OnNlY3JldA==\"",
    );
    let run = fledged(&["check", "-f", &file, "--registry-config", &config])
        .expect_code(2)
        .expect_stderr(&[&config]);
    assert!(!run.stderr.contains("c2VjcmV0"), "{}", run.stderr);
}

#[test]
fn invalid_manifests_pull_nothing() {
    let bed = TestBed::new();
    let good = bed.write("good.yaml", &manifest(&bed.images));
    let bad = bed.write(
        "bad.yaml",
        &manifest(&["ok:1".to_owned(), "ngi nx".to_owned()]).replace("name: test", "name: other"),
    );
    let store = bed.store();
    fledged(&[
        "node",
        "apply",
        "--runtime",
        &store,
        "-f",
        &good,
        "-f",
        &bad,
    ])
    .expect_code(2)
    .expect_stderr(&[
        "error: ",
        "bad.yaml: document 1 (ImageCache default/other): spec.cacheSpec[0].images[1]: \"ngi nx\"",
        "white space",
    ]);
    assert!(!bed.store_path().exists());
    assert_eq!(bed.registry.traffic().requests, 0);

    let missing = format!("{}/missing.yaml", bed.folder.path().display());
    fledged(&["node", "apply", "--runtime", &store, "-f", &missing])
        .expect_code(2)
        .expect_stderr(&["cannot read", &missing]);
    fledged_with_stdin(&["check", "-f", "-"], "kind: Pod\napiVersion: v1\n")
        .expect_code(2)
        .expect_stderr(&["stdin contains no ImageCache, only Pod;"]);
    fledged(&["check", "-f", "/dev/zero"])
        .expect_code(2)
        .expect_stderr(&["cannot read /dev/zero: it is larger than 16 MiB"]);
    fledged_with_stdin(&["check", "-f", "-"], "\u{0}")
        .expect_code(2)
        .expect_stderr(&["stdin is not valid YAML or JSON"]);
}

#[test]
fn the_output_of_a_whole_chart_is_read() {
    let bed = TestBed::new();
    let store = bed.store();
    let text = format!(
        "\u{feff}apiVersion: v1\r\nkind: Namespace\r\nmetadata: {{name: warm}}\r\n---\r\n{}",
        manifest(&bed.images).replace('\n', "\r\n")
    );
    fledged_with_stdin(&["node", "apply", "--runtime", &store, "-f", "-"], &text)
        .expect_code(0)
        .expect_stderr(&["note: stdin: objects of other kinds skipped: Namespace"]);
    let secrets = manifest(&bed.images) + "    imagePullSecrets: [{name: a}]\n";
    let dry = ["node", "apply", "--dry-run", "--runtime", &store, "-f", "-"];
    fledged_with_stdin(&dry, &secrets).expect_stderr(&[
        "spec.cacheSpec[0].imagePullSecrets: unknown field, ignored; it belongs into spec",
    ]);
}

#[test]
fn control_characters_of_a_manifest_are_escaped() {
    let bed = TestBed::new();
    let store = bed.store();
    let text = manifest(&["nginx:1".to_owned()]);
    let dry = ["node", "apply", "--dry-run", "--runtime", &store, "-f", "-"];
    let run = fledged_with_stdin(&dry, &text.replace("name: test", "name: \"x\\e[31m\""))
        .expect_code(2)
        .expect_stderr(&[r#"metadata.name: "x\u{1b}[31m""#]);
    assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);
    let text = text + "\"f\\e[32m\\u202e\\nerror: all is lost\": 1\n";
    let run = fledged_with_stdin(&dry, &text)
        .expect_stderr(&[r"f\u{1b}[32m\u{202e}\nerror: all is lost: unknown field"]);
    assert!(
        !run.stderr.contains(['\u{1b}', '\u{202e}']),
        "{:?}",
        run.stderr
    );
}

#[test]
fn a_missing_runtime_ends_with_exit_code_1() {
    let bed = TestBed::new();
    let file = bed.write("images.yaml", &manifest(&["nginx:1".to_owned()]));
    let socket = format!("{}/none.sock", bed.folder.path().display());
    for scheme in ["unix", "docker"] {
        let uri = format!("{scheme}://{socket}");
        for args in [
            vec!["node", "apply", "-f", &file, "--runtime", &uri],
            vec!["node", "list", "--runtime", &uri],
        ] {
            fledged(&args)
                .expect_code(1)
                .expect_stderr(&["error: ", &socket]);
        }
    }
}

#[test]
fn a_store_that_is_a_file_is_invalid_input() {
    let bed = TestBed::new();
    let file = bed.write("images.yaml", &manifest(&["nginx:1".to_owned()]));
    let below = format!("{file}/store");
    for path in [&file, &below] {
        let uri = format!("oci:{path}");
        for command in ["apply", "purge", "run"] {
            fledged(&["node", command, "-f", &file, "--runtime", &uri])
                .expect_code(2)
                .expect_stderr(&["error: ", path, "Not a directory"]);
        }
        fledged(&["node", "list", "--runtime", &uri]).expect_code(2);
    }
}

#[test]
fn a_missing_store_is_not_listed_as_empty() {
    let bed = TestBed::new();
    let path = bed.store_path().display().to_string();
    fledged(&["node", "list", "--runtime", &bed.store()])
        .expect_code(1)
        .expect_stderr(&["error: ", "there is no directory", &path]);
    std::fs::create_dir(bed.store_path()).unwrap();
    fledged(&["node", "list", "--runtime", &bed.store()]).expect_code(0);
}

#[test]
fn settings_are_read_from_the_environment() {
    let bed = TestBed::new();
    let file = bed.write("images.yaml", &manifest(&["nginx:1".to_owned()]));
    let run = command(&["node", "apply", "-f", &file])
        .env("FLEDGED_RUNTIME", "ftp://x")
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(2));
}

#[test]
fn empty_variables_are_ignored() {
    let bed = TestBed::new();
    let text = manifest(&["nginx:1".to_owned()])
        .replace("- images", "- nodeSelector: {a: b, c: d}\n    images");
    let file = bed.write("images.yaml", &text);
    let store = bed.store();
    let run = |variables: &[(&str, &str)], args: &[&str]| -> Run {
        let dry = [
            "node",
            "apply",
            "--dry-run",
            "-f",
            &file,
            "--runtime",
            &store,
        ];
        let mut command = command(&[&dry[..], args].concat());
        command
            .envs(variables.iter().copied())
            .output()
            .unwrap()
            .into()
    };
    let nothing = [
        "FLEDGED_PLATFORM",
        "FLEDGED_RUNTIME",
        "FLEDGED_REGISTRY_CONFIG",
        "FLEDGED_INSECURE_REGISTRIES",
        "FLEDGED_NODE_LABELS",
        "FLEDGED_NODE_NAME",
    ]
    .map(|name| (name, ""));
    run(&nothing, &[])
        .expect_code(0)
        .expect_stderr(&["no entry of the manifests"]);
    let labels = [("FLEDGED_NODE_LABELS", "a=b,, c=d,")];
    run(&labels, &[])
        .expect_code(0)
        .expect_stderr(&["1 would be pulled"]);
    // The command line takes precedence, and an invalid item is refused.
    let only = ["--node-label", "a=b"];
    run(&labels, &only)
        .expect_code(0)
        .expect_stderr(&["0 would be pulled"]);
    run(&[("FLEDGED_NODE_LABELS", "a,")], &[])
        .expect_code(2)
        .expect_stderr(&["'a'"]);
}

#[test]
fn output_without_a_terminal_has_no_colours() {
    let run = fledged(&["node", "run", "-f", "-"]).expect_code(2);
    assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);
    let run = fledged(&["node", "apply"]).expect_code(2);
    assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);
}
