//! A real docker-registry on a loopback port.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use hyper::Method;

use crate::http;
use crate::leftovers::TemporaryFolder;
use crate::poll::{SOON, poll_until};
use crate::process::Process;

/// Address and credentials of a registry to push images to.
pub trait RegistryEndpoint {
    /// `127.0.0.1:PORT`.
    fn addr(&self) -> String;

    /// User name and password, if the registry requires them.
    fn credentials(&self) -> Option<(String, String)>;
}

/// A docker-registry with its storage in a temporary folder; deletion is enabled.
#[derive(Debug)]
pub struct Registry {
    process: Process,
    addr: String,
    credentials: Option<(String, String)>,
    marks: AtomicU32,
    folder: TemporaryFolder,
}

/// One request as the registry logged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRequest {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
}

impl Registry {
    /// Starts a registry without authentication.
    ///
    /// # Panics
    ///
    /// When the registry does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::launch(None)
    }

    /// Starts a registry that requires this user name and password for all requests.
    ///
    /// # Panics
    ///
    /// When the registry does not start.
    #[must_use]
    pub fn start_with_htpasswd(username: &str, password: &str) -> Self {
        Self::launch(Some((username.to_owned(), password.to_owned())))
    }

    fn launch(credentials: Option<(String, String)>) -> Self {
        let folder = TemporaryFolder::create("registry-");
        let root = folder.path();
        let mut config = format!(
            "version: 0.1\n\
             log: {{level: info, formatter: json}}\n\
             storage:\n\
             \x20 filesystem: {{rootdirectory: {storage}}}\n\
             \x20 delete: {{enabled: true}}\n\
             \x20 maintenance: {{uploadpurging: {{enabled: false}}}}\n\
             http: {{addr: \"127.0.0.1:0\", secret: loopback}}\n",
            storage = root.join("storage").display()
        );
        if let Some((username, password)) = &credentials {
            // 4 is the lowest cost that bcrypt has; the registry verifies it on every request.
            let hash = bcrypt::hash(password, 4).expect("a bcrypt hash");
            let file = root.join("htpasswd");
            std::fs::write(&file, format!("{username}:{hash}\n")).expect("writing htpasswd");
            let _ = writeln!(
                config,
                "auth: {{htpasswd: {{realm: test, path: {}}}}}",
                file.display()
            );
        }
        let file = root.join("config.yml");
        std::fs::write(&file, config).expect("writing the registry's configuration");
        let file = file.display().to_string();
        let mut process = Process::start("docker-registry", &["serve", &file], root);
        // The kernel chooses a port for port 0; the registry logs it.
        let addr = process.wait_ready(|process| listening_addr(&process.stderr()));
        Self {
            process,
            addr,
            credentials,
            marks: AtomicU32::new(0),
            folder,
        }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// The folder of the registry's blobs.
    #[must_use]
    pub fn storage(&self) -> std::path::PathBuf {
        self.folder.path().join("storage")
    }

    /// Returns all requests so far, in the order of the answers.
    ///
    /// # Panics
    ///
    /// When the registry no longer answers.
    #[must_use]
    pub fn requests(&self) -> Vec<LoggedRequest> {
        // The registry logs a request once its answer is complete, so send a request that marks the end of the log.
        let mark = format!("/v2/?mark={}", self.marks.fetch_add(1, Ordering::Relaxed));
        http::send(&self.addr, Method::GET, &mark, &[], None, Bytes::new()).expect("a mark");
        let log = poll_until("the registry's request log", SOON, || {
            let log = self.process.stdout();
            log.contains(&mark).then_some(log)
        });
        log.lines()
            .filter_map(parse_line)
            .filter(|request| !request.path.starts_with("/v2/?mark="))
            .collect()
    }

    /// Returns the logged requests with this method whose path contains `path_part`.
    #[must_use]
    pub fn requests_matching(&self, method: &str, path_part: &str) -> Vec<LoggedRequest> {
        let mut requests = self.requests();
        requests.retain(|r| r.method == method && r.path.contains(path_part));
        requests
    }

    /// Deletes a manifest by digest.
    ///
    /// # Panics
    ///
    /// When the registry refuses.
    pub fn delete_manifest(&self, repository: &str, digest: &str) {
        let target = format!("/v2/{repository}/manifests/{digest}");
        let authorization = self.credentials.as_ref().map(|(u, p)| http::basic(u, p));
        let response = http::send(
            &self.addr,
            Method::DELETE,
            &target,
            &[],
            authorization.as_deref(),
            Bytes::new(),
        )
        .expect("deleting a manifest");
        assert_eq!(response.status, 202, "deleting {target}");
    }

    /// Stops the registry; further connections are refused.
    pub fn stop(&mut self) {
        self.process.kill9();
    }

    /// Kills the registry if it still runs, and starts it again at the same address, without waiting until it serves.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start_again(&mut self) {
        self.process.kill9();
        let file = self.folder.path().join("config.yml");
        let config = std::fs::read_to_string(&file).expect("the registry's configuration");
        let config = config.replace("127.0.0.1:0", &self.addr);
        std::fs::write(&file, config).expect("writing the registry's configuration");
        let file = file.display().to_string();
        self.process = Process::start("docker-registry", &["serve", &file], self.folder.path());
    }

    /// Its process.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The folder of its configuration, logs and blobs.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

impl RegistryEndpoint for Registry {
    fn addr(&self) -> String {
        self.addr.clone()
    }

    fn credentials(&self) -> Option<(String, String)> {
        self.credentials.clone()
    }
}

fn listening_addr(log: &str) -> Option<String> {
    let (_, rest) = log.split_once("listening on ")?;
    let end = rest.find(['"', ',', '\n'])?;
    Some(rest[..end].to_owned())
}

/// One line in Apache's combined log format: `host - user [date] "METHOD path HTTP/1.1" status ...`.
fn parse_line(line: &str) -> Option<LoggedRequest> {
    let mut quoted = line.split('"');
    let (_, request, after) = (quoted.next()?, quoted.next()?, quoted.next()?);
    let mut words = request.split(' ');
    Some(LoggedRequest {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        status: after.split_whitespace().next()?.parse().ok()?,
    })
}
