//! Registry credentials: docker's configuration and helpers, and credential-provider plugins.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::support::{Run, TestBed, command, fledged, manifest, text_of};

/// `reader:correct-horse`.
const LOGIN: &str = "Basic cmVhZGVyOmNvcnJlY3QtaG9yc2U=";

/// Serves another registry to those who log in. Its threads end with the process.
fn login_wall(upstream: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let upstream = upstream.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let upstream = upstream.clone();
            std::thread::spawn(move || pass(client, &upstream));
        }
    });
    address
}

/// Answers one request; none has a body.
fn pass(mut client: TcpStream, upstream: &str) -> io::Result<()> {
    let mut head = Vec::new();
    for line in BufReader::new(client.try_clone()?).lines() {
        match line? {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    let is_login = |line: &String| {
        let (name, value) = line.split_once(": ").unwrap_or_default();
        name.eq_ignore_ascii_case("authorization") && value == LOGIN
    };
    if !head.iter().any(is_login) {
        return client.write_all(
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    head.retain(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let mut server = TcpStream::connect(upstream)?;
    write!(server, "{}\r\nConnection: close\r\n\r\n", head.join("\r\n"))?;
    io::copy(&mut server, &mut client)?;
    Ok(())
}

/// A private registry, a manifest with one of its images, and programs that know the password.
struct Private {
    bed: TestBed,
    registry: String,
    file: String,
}

impl Private {
    fn new() -> Self {
        let bed = TestBed::new();
        let registry = login_wall(&bed.registry.host());
        let image = bed.images[0].replacen(&bed.registry.host(), &registry, 1);
        let file = bed.write("images.yaml", &manifest(&[image]));
        Self {
            bed,
            registry,
            file,
        }
    }

    fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = PathBuf::from(self.bed.write(name, &format!("#!/bin/sh\n{script}\n")));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A docker configuration with this helper.
    fn with_helper(&self, script: &str) -> String {
        self.program("docker-credential-test", script);
        let config =
            json!({"auths": {&self.registry: {}}, "credHelpers": {&self.registry: "test"}});
        self.bed.write("config.json", &config.to_string())
    }

    /// The flags of a credential provider with this script.
    fn with_provider(&self, script: &str) -> [String; 4] {
        self.program("login", script);
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
            "providers": [{
                "name": "login", "matchImages": [&self.registry], "defaultCacheDuration": "0s",
                "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            }],
        });
        let config = self.bed.write("providers.yaml", &config.to_string());
        [
            "--image-credential-provider-config".to_owned(),
            config,
            "--image-credential-provider-bin-dir".to_owned(),
            text_of(self.bed.folder.path()),
        ]
    }

    fn response(&self) -> String {
        let response = json!({
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "kind": "CredentialProviderResponse",
            "cacheKeyType": "Registry",
            "auth": {&self.registry: {"username": "reader", "password": "correct-horse"}},
        });
        format!("cat <<'END'\n{response}\nEND")
    }

    /// `fledged check` with helpers of the directory in `$PATH`.
    fn check(&self, args: &[&str]) -> Command {
        let base = ["check", "-f", &self.file, "--platform", "linux/amd64"];
        let mut command = command(&[&base[..], args].concat());
        command.env("PATH", self.path());
        command
    }

    /// `$PATH` with the helpers.
    fn path(&self) -> String {
        let path = std::env::var("PATH").unwrap_or_default();
        format!("{}:{path}", self.bed.folder.path().display())
    }
}

fn run(mut command: Command) -> Run {
    let run: Run = command.output().unwrap().into();
    assert!(!run.stderr.contains("correct-horse"), "{}", run.stderr);
    run
}

const HELPER: &str =
    "[ \"$1\" = get ] && echo '{\"Username\":\"reader\",\"Secret\":\"correct-horse\"}'";

#[test]
fn a_credential_helper_is_run() {
    let private = Private::new();
    let refused = run(private.check(&[])).expect_code(1);
    assert!(
        refused.stdout.contains("Unauthorized"),
        "{}",
        refused.stdout
    );
    let config = private.with_helper(HELPER);
    run(private.check(&["--registry-config", &config])).expect_code(0);
}

#[test]
fn a_failed_helper_is_named() {
    let private = Private::new();
    let config = private.with_helper("echo 'the store is locked'; exit 1");
    let failed = run(private.check(&["--registry-config", &config])).expect_code(1);
    for part in [
        "CredentialsUnavailable",
        "docker-credential-test for ",
        "the store is locked",
    ] {
        assert!(failed.stdout.contains(part), "{}", failed.stdout);
    }
    // A public image needs no helper.
    let file = private
        .bed
        .write("public.yaml", &manifest(&private.bed.images));
    let config = json!({"credsStore": "fledged-test-missing"}).to_string();
    let config = private.bed.write("store.json", &config);
    let args = ["check", "-f", &file, "--platform", "linux/amd64"];
    let run = fledged(&[&args[..], &["--registry-config", &config]].concat()).expect_code(0);
    let note = "not used: docker-credential-fledged-test-missing for ";
    assert!(run.stdout.contains(note), "{}", run.stdout);
}

#[test]
fn a_helper_that_hangs_is_named() {
    let private = Private::new();
    let config = private.with_helper("sleep 600; true");
    // The helper gets half of it.
    let args = ["--registry-config", &config, "--deadline", "8s"];
    let store = private.bed.store();
    let apply = [
        &["node", "apply", "-f", &private.file, "--runtime", &store],
        &["--platform", "linux/amd64"][..],
    ];
    let mut apply = command(&[&apply.concat()[..], &args].concat());
    apply.env("PATH", private.path());
    std::thread::scope(|scope| {
        for command in [private.check(&args), apply] {
            scope.spawn(|| {
                let failed = run(command).expect_code(1);
                for part in [
                    "CredentialsUnavailable",
                    "docker-credential-test for ",
                    ": did not finish within 4 s",
                ] {
                    assert!(failed.stdout.contains(part), "{}", failed.stdout);
                }
            });
        }
    });
}

#[test]
fn an_unreachable_registry_comes_before_a_failed_helper() {
    let bed = TestBed::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = closed.local_addr().unwrap().to_string();
    drop(closed);
    let file = bed.write("images.yaml", &manifest(&[format!("{registry}/app:1")]));
    let config = json!({"credsStore": "fledged-test-missing"}).to_string();
    let config = bed.write("config.json", &config);
    let store = bed.store();
    let common = [
        "-f",
        &file,
        "--platform",
        "linux/amd64",
        "--registry-config",
        &config,
    ];
    let apply = ["node", "apply", "--runtime", &store, "--deadline", "1s"];
    for command in [&["check"][..], &apply] {
        let failed = fledged(&[command, &common].concat()).expect_code(1);
        let (text, helper) = failed.stdout.split_once(" (tried without").unwrap();
        assert!(text.contains("ConnectionFailed"), "{}", failed.stdout);
        assert!(
            text.contains(&format!("cannot reach {registry}")),
            "{}",
            failed.stdout
        );
        assert!(
            helper.contains("docker-credential-fledged-test-missing for "),
            "{helper}"
        );
    }
}

#[test]
fn a_helper_with_a_path_is_refused() {
    let private = Private::new();
    let config = private
        .bed
        .write("config.json", "{\"credsStore\": \"../../bin/sh\"}");
    run(private.check(&["--registry-config", &config]))
        .expect_code(2)
        .expect_stderr(&["--registry-config", "\"../../bin/sh\"", "no slashes"]);
}

#[test]
fn dockers_own_configuration_is_the_default() {
    let private = Private::new();
    let auths =
        json!({"auths": {&private.registry: {"username": "reader", "password": "correct-horse"}}});
    private.bed.write("config.json", &auths.to_string());
    let folder = private.bed.folder.path();
    let by_folder = |args: &[&str]| {
        let mut check = private.check(args);
        check.env("DOCKER_CONFIG", folder);
        run(check)
    };
    by_folder(&[]).expect_code(0);
    by_folder(&["--anonymous"]).expect_code(1);
    let other = private.bed.write("other.json", "{\"auths\": {}}");
    by_folder(&["--registry-config", &other]).expect_code(1);
    fs::create_dir(folder.join(".docker")).unwrap();
    fs::rename(
        folder.join("config.json"),
        folder.join(".docker/config.json"),
    )
    .unwrap();
    let mut by_home = private.check(&[]);
    by_home.env_remove("DOCKER_CONFIG").env("HOME", folder);
    run(by_home).expect_code(0);
}

#[test]
fn a_broken_docker_configuration_is_a_warning() {
    let private = Private::new();
    private
        .bed
        .write("config.json", "{\"auths\": correct-horse");
    let mut check = private.check(&[]);
    check.env("DOCKER_CONFIG", private.bed.folder.path());
    run(check)
        .expect_code(1)
        .expect_stderr(&["docker's registry configuration ignored"]);
}

#[test]
fn a_credential_provider_is_run() {
    let private = Private::new();
    let flags = private.with_provider(&private.response());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    run(private.check(&flags)).expect_code(0);
    let store = private.bed.store();
    let apply = [
        "node",
        "apply",
        "-f",
        &private.file,
        "--runtime",
        &store,
        "--platform",
        "linux/amd64",
    ];
    fledged(&[&apply[..], &flags].concat()).expect_code(0);
    assert_eq!(private.bed.stored().len(), 1);
}

#[test]
fn a_failed_credential_provider_is_named() {
    let private = Private::new();
    let flags = private.with_provider("echo 'no role' >&2; exit 1");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let failed = run(private.check(&flags)).expect_code(1);
    let part = "credential provider \"login\": failed (exit status: 1): no role";
    assert!(failed.stdout.contains(part), "{}", failed.stdout);
}

#[test]
fn invalid_credential_providers_name_flag_and_field() {
    let private = Private::new();
    let folder = text_of(private.bed.folder.path());
    let (config, plugins) = (
        "--image-credential-provider-config",
        "--image-credential-provider-bin-dir",
    );
    run(private.check(&[config, "/x"]))
        .expect_code(2)
        .expect_stderr(&[plugins]);
    run(private.check(&[config, "/does/not/exist", plugins, &folder]))
        .expect_code(2)
        .expect_stderr(&[config, "/does/not/exist"]);
    let text = "apiVersion: v1\nkind: CredentialProviderConfig\nproviders: [{name: a/b}]\n";
    let file = private.bed.write("bad.yaml", text);
    run(private.check(&[config, &file, plugins, &folder]))
        .expect_code(2)
        .expect_stderr(&[
            config,
            &file,
            "apiVersion: \"v1\"",
            "providers[0].name: \"a/b\"",
        ]);
    let flags = private.with_provider("true");
    fs::remove_file(private.bed.folder.path().join("login")).unwrap();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    run(private.check(&flags))
        .expect_code(2)
        .expect_stderr(&[config, "/login cannot be read"]);
}
