//! `hosts.toml` and certificate files of a registry, in the folders of containerd and Docker
//! (containerd's `docs/hosts.md`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::GoDuration;
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use toml::{Table, Value};

#[cfg(feature = "cri")]
use super::trust::PemKind;
use crate::classify::redact;

/// Longest `hosts.toml` that is read, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// A file of a registry's folder that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot use {}: {problem}", .file.display())]
pub(super) struct HostsError {
    file: PathBuf,
    problem: String,
}

impl HostsError {
    /// The problem is kept without the user information of URLs.
    pub(super) fn new(file: impl Into<PathBuf>, problem: impl ToString) -> Self {
        Self {
            file: file.into(),
            problem: redact(&problem.to_string(), &[]),
        }
    }
}

impl From<HostsError> for Failure {
    fn from(error: HostsError) -> Self {
        Self::new(Reason::RegistryMisconfigured, error.to_string())
    }
}

/// The address of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) plain: bool,
    /// `host[:port]`.
    pub(super) host: String,
    /// The path before the repository, `/v2`.
    pub(super) path: String,
}

/// One host of a registry: a mirror, or the registry itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostEntry {
    /// `None`: the registry's own address.
    pub(super) address: Option<Address>,
    pub(super) pull: bool,
    pub(super) resolve: bool,
    pub(super) ca: Vec<PathBuf>,
    /// Certificate and key. Without a key, the certificate's file has both.
    pub(super) client: Vec<(PathBuf, Option<PathBuf>)>,
    pub(super) skip_verify: Option<bool>,
    pub(super) header: HeaderMap,
    pub(super) dial_timeout: Option<Duration>,
}

impl Default for HostEntry {
    fn default() -> Self {
        Self {
            address: None,
            pull: true,
            resolve: true,
            ca: Vec::new(),
            client: Vec::new(),
            skip_verify: None,
            header: HeaderMap::new(),
            dial_timeout: None,
        }
    }
}

impl HostEntry {
    /// Whether the entry configures TLS. A plain HTTP address of such an entry is tried by HTTPS first.
    pub(super) fn has_tls(&self) -> bool {
        !self.ca.is_empty() || !self.client.is_empty() || self.skip_verify.is_some()
    }

    /// Each file, with the field that names it and what it must have.
    #[cfg(feature = "cri")]
    fn certificate_files(&self) -> Vec<(&'static str, &Path, PemKind)> {
        let mut files: Vec<_> = self
            .ca
            .iter()
            .map(|ca| ("ca", &**ca, PemKind::Certificate))
            .collect();
        for (certificate, key) in &self.client {
            let key = key.as_ref().unwrap_or(certificate);
            files.push(("client", certificate, PemKind::Certificate));
            files.push(("client", key, PemKind::PrivateKey));
        }
        files
    }
}

/// The hosts of a registry in the order in which they are tried, or none if no folder is for it.
///
/// # Errors
///
/// [`HostsError`] for a file that cannot be read or is invalid.
pub(super) fn entries(dirs: &[PathBuf], registry: &str) -> Result<Vec<HostEntry>, HostsError> {
    for dir in dirs {
        for name in folder_names(registry) {
            let folder = dir.join(name);
            match folder.try_exists() {
                Ok(true) => return read_folder(&folder),
                Ok(false) => {}
                Err(error) => return Err(HostsError::new(folder, error)),
            }
        }
    }
    Ok(Vec::new())
}

/// The folders of a registry, the first that exists is used: `host_5000_`, `host:5000`, `_default`.
fn folder_names(registry: &str) -> impl Iterator<Item = String> {
    let escaped = registry
        .rsplit_once(':')
        .filter(|(host, port)| !host.is_empty() && !port.ends_with(']'))
        .map(|(host, port)| format!("{host}_{port}_"));
    escaped
        .into_iter()
        .chain([registry.to_owned(), "_default".to_owned()])
}

fn read_folder(folder: &Path) -> Result<Vec<HostEntry>, HostsError> {
    let file = folder.join("hosts.toml");
    let text = match std::fs::metadata(&file) {
        Ok(metadata) if metadata.len() > FILE_MAX => {
            let problem = format!("it is longer than {FILE_MAX} bytes");
            return Err(HostsError::new(file, problem));
        }
        Ok(_) => std::fs::read_to_string(&file).map_err(|error| HostsError::new(&file, error))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(HostsError::new(file, error)),
    };
    if text.is_empty() {
        return Ok(vec![certificate_files(folder)?]);
    }
    parse(folder, &file, &text)
}

/// The certificates of a folder without `hosts.toml`: `*.crt` are authorities, `*.cert` with `*.key`
/// client certificates.
fn certificate_files(folder: &Path) -> Result<HostEntry, HostsError> {
    let mut entry = HostEntry::default();
    let listed = std::fs::read_dir(folder).map_err(|error| HostsError::new(folder, error))?;
    let mut files: Vec<PathBuf> = listed.flatten().map(|file| file.path()).collect();
    files.sort();
    for file in files.into_iter().filter(|file| !file.is_dir()) {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => entry.ca.push(file),
            Some("cert") => {
                let key = Some(file.with_extension("key")).filter(|key| key.exists());
                entry.client.push((file, key));
            }
            _ => {}
        }
    }
    Ok(entry)
}

/// What is wrong with a `hosts.toml`.
#[cfg(feature = "cri")]
pub(crate) enum HostsFileProblem {
    /// Its text is invalid.
    Text(String),
    /// Certificate files that it names cannot be used.
    Certificates(Vec<String>),
}

/// Checks the text of a `hosts.toml`, and the certificate files that it names. `read` reads a file by its path on the node.
///
/// # Errors
///
/// What is wrong.
#[cfg(feature = "cri")]
pub(crate) fn check_hosts_file(
    folder: &Path,
    file: &Path,
    text: &str,
    read: impl Fn(&Path) -> std::io::Result<Vec<u8>>,
) -> Result<(), HostsFileProblem> {
    let entries = parse(folder, file, text);
    let entries = entries.map_err(|error| HostsFileProblem::Text(error.problem))?;
    let mut problems = Vec::new();
    for entry in &entries {
        let host = match &entry.address {
            Some(address) => format!("host {}", address.host),
            None => "the registry itself".to_owned(),
        };
        for (field, path, kind) in entry.certificate_files() {
            let content = read(path).map_err(|error| error.to_string());
            if let Err(problem) = content.and_then(|bytes| kind.check(&bytes)) {
                let path = path.display();
                problems.push(format!("{host}, {field} {path}: {problem}"));
            }
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(HostsFileProblem::Certificates(problems)),
    }
}

pub(super) fn parse(folder: &Path, file: &Path, text: &str) -> Result<Vec<HostEntry>, HostsError> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        HostsError::new(file, format!("line {line}: {}", error.message()))
    })?;
    let reader = Reader { folder, file };
    let mut entries = Vec::new();
    match table.get("host") {
        None => {}
        Some(Value::Table(hosts)) => {
            for (address, value) in hosts {
                let field = format!("host.{address:?}");
                let Value::Table(table) = value else {
                    return Err(reader.invalid(&field, value, "a table"));
                };
                let mut entry = reader.entry(&format!("{field}."), table)?;
                entry.address = Some(reader.address(&field, address, table)?);
                entries.push(entry);
            }
        }
        Some(other) => return Err(reader.invalid("host", other, "tables [host.\"URL\"]")),
    }
    let mut own = reader.entry("", &table)?;
    match table.get("server") {
        None => {
            // As in containerd: the registry's own address has all capabilities.
            (own.pull, own.resolve) = (true, true);
        }
        Some(Value::String(server)) if server.is_empty() => {}
        Some(Value::String(server)) => {
            own.address = Some(reader.address("server", server, &table)?);
        }
        Some(other) => return Err(reader.invalid("server", other, "a URL")),
    }
    entries.push(own);
    Ok(entries)
}

/// Reads the fields of one file.
struct Reader<'a> {
    folder: &'a Path,
    file: &'a Path,
}

impl Reader<'_> {
    fn invalid(&self, field: &str, value: &Value, expected: &str) -> HostsError {
        // Headers with passwords are in tables.
        let shown = match value {
            Value::Table(_) => "a table".to_owned(),
            _ if has_table(value) => "a list of tables".to_owned(),
            _ => value.to_string(),
        };
        HostsError::new(
            self.file,
            format!("{field} is {shown}, expected {expected}"),
        )
    }

    fn entry(&self, prefix: &str, table: &Table) -> Result<HostEntry, HostsError> {
        let name = |field: &str| format!("{prefix}{field}");
        let mut entry = HostEntry::default();
        if let Some(value) = table.get("capabilities") {
            let expected = "a list of \"pull\", \"resolve\", \"push\" and \"referrers\"";
            let listed = self.strings(&name("capabilities"), value, expected)?;
            if !listed.is_empty() {
                (entry.pull, entry.resolve) = (false, false);
            }
            for capability in listed {
                match capability.to_ascii_lowercase().as_str() {
                    "pull" => entry.pull = true,
                    "resolve" => entry.resolve = true,
                    "push" | "referrers" => {}
                    _ => return Err(self.invalid(&name("capabilities"), value, expected)),
                }
            }
        }
        if let Some(value) = table.get("ca") {
            let files = self.strings(&name("ca"), value, "a file or a list of files")?;
            entry.ca = files
                .into_iter()
                .map(|file| self.folder.join(file))
                .collect();
        }
        if let Some(value) = table.get("client") {
            entry.client = self.clients(&name("client"), value)?;
        }
        entry.skip_verify = match table.get("skip_verify") {
            None => None,
            Some(Value::Boolean(skip)) => Some(*skip),
            Some(other) => return Err(self.invalid(&name("skip_verify"), other, "true or false")),
        };
        if let Some(value) = table.get("header") {
            entry.header = self.headers(&name("header"), value)?;
        }
        if let Some(value) = table.get("dial_timeout") {
            let timeout = value
                .as_str()
                .and_then(|text| text.parse::<GoDuration>().ok());
            let Some(GoDuration(timeout)) = timeout else {
                return Err(self.invalid(
                    &name("dial_timeout"),
                    value,
                    "a duration such as \"3s\"",
                ));
            };
            entry.dial_timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
        }
        Ok(entry)
    }

    /// A URL; `https://` is added if it has no scheme.
    fn address(&self, field: &str, text: &str, table: &Table) -> Result<Address, HostsError> {
        let override_path = match table.get("override_path") {
            None => false,
            Some(Value::Boolean(value)) => *value,
            Some(other) => {
                return Err(self.invalid("override_path", other, "true or false"));
            }
        };
        let full = if text.contains("://") {
            text.to_owned()
        } else {
            format!("https://{text}")
        };
        let url = Url::parse(&full)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some((url, host)) = url.as_ref().and_then(|url| Some((url, url.host_str()?))) else {
            let value = Value::String(text.to_owned());
            return Err(self.invalid(field, &value, "a URL such as \"https://mirror.example\""));
        };
        let port = url
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let mut path = url.path().trim_end_matches('/').to_owned();
        if !override_path && !path.ends_with("/v2") {
            path.push_str("/v2");
        }
        Ok(Address {
            plain: url.scheme() == "http",
            host: format!("{host}{port}"),
            path,
        })
    }

    /// A string, or a list of strings.
    fn strings<'v>(
        &self,
        field: &str,
        value: &'v Value,
        expected: &str,
    ) -> Result<Vec<&'v str>, HostsError> {
        let listed = match value {
            Value::String(text) => Some(vec![text.as_str()]),
            Value::Array(values) => values.iter().map(Value::as_str).collect(),
            _ => None,
        };
        listed.ok_or_else(|| self.invalid(field, value, expected))
    }

    fn clients(
        &self,
        field: &str,
        value: &Value,
    ) -> Result<Vec<(PathBuf, Option<PathBuf>)>, HostsError> {
        let expected = "a file, a list of files, or a list of pairs [certificate, key]";
        let path = |text: &str| self.folder.join(text);
        let pair = |value: &Value| match value {
            Value::String(file) => Some((path(file), None)),
            Value::Array(files) => match files.as_slice() {
                [Value::String(certificate), Value::String(key)] => {
                    Some((path(certificate), Some(path(key))))
                }
                _ => None,
            },
            _ => None,
        };
        let pairs = match value {
            Value::String(file) => Some(vec![(path(file), None)]),
            Value::Array(values) => values.iter().map(pair).collect(),
            _ => None,
        };
        pairs.ok_or_else(|| self.invalid(field, value, expected))
    }

    fn headers(&self, field: &str, value: &Value) -> Result<HeaderMap, HostsError> {
        let Value::Table(table) = value else {
            let problem = format!("{field} is not a table of headers");
            return Err(HostsError::new(self.file, problem));
        };
        let mut headers = HeaderMap::new();
        for (name, value) in table {
            let field = format!("{field}.{name}");
            // The value may be a password: it is not repeated.
            let problem =
                || HostsError::new(self.file, format!("{field} is not a valid HTTP header"));
            let key = HeaderName::try_from(name).map_err(|_| problem())?;
            for text in self.strings(&field, value, "").map_err(|_| problem())? {
                let mut text = HeaderValue::try_from(text).map_err(|_| problem())?;
                text.set_sensitive(true);
                headers.append(key.clone(), text);
            }
        }
        Ok(headers)
    }
}

fn has_table(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(values) => values.iter().any(has_table),
        _ => false,
    }
}

/// The folder of containerd's configuration.
#[cfg(feature = "cri")]
pub(crate) const CONTAINERD_CONFIG_DIR: &str = "/etc/containerd";
/// The file with containerd's configuration.
const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";

/// The folders in which this machine's container runtime looks for registries: those of containerd's
/// configuration, else `/etc/containerd/certs.d` and `/etc/docker/certs.d`.
#[must_use]
pub fn hosts_dirs_of_this_machine() -> Vec<PathBuf> {
    let configured = std::fs::read_to_string(CONTAINERD_CONFIG)
        .map(|text| config_path(&text))
        .unwrap_or_default();
    if configured.is_empty() {
        ["/etc/containerd/certs.d", "/etc/docker/certs.d"]
            .map(PathBuf::from)
            .into()
    } else {
        configured
    }
}

/// `config_path` of containerd's configuration.
pub(super) fn config_path(text: &str) -> Vec<PathBuf> {
    let registry = registry_settings(text).unwrap_or_default();
    let paths = registry.get("config_path").and_then(Value::as_str);
    let paths = std::env::split_paths(paths.unwrap_or_default());
    paths.filter(|path| !path.as_os_str().is_empty()).collect()
}

/// The registry settings of containerd's configuration, in its versions 1 to 3.
fn registry_settings(text: &str) -> Option<Table> {
    let config = text.parse::<Table>().ok()?;
    let plugins = config.get("plugins")?;
    let names = [
        "io.containerd.cri.v1.images",
        "io.containerd.grpc.v1.cri",
        "cri",
    ];
    let mut settings = names
        .iter()
        .filter_map(|plugin| plugins.get(plugin)?.get("registry")?.as_table());
    settings.next().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<HostEntry>, HostsError> {
        let folder = Path::new("/c/r.lan");
        parse(folder, &folder.join("hosts.toml"), text)
    }

    #[test]
    fn mirrors_keep_their_order_and_the_server_is_last() {
        let found = read(
            r#"
            server = "https://r.lan"
            ca = "ca.crt"
            [host."https://z.lan"]
              capabilities = ["pull"]
              skip_verify = true
            [host."http://a.lan:5000/some/path"]
              capabilities = ["pull", "resolve"]
              [host."http://a.lan:5000/some/path".header]
                x-key = ["1", "2"]
            [host."m.lan/api/"]
              override_path = true
              client = [["c.cert", "/k/c.key"]]
              dial_timeout = "3s"
            "#,
        )
        .unwrap();
        let addresses: Vec<_> = found
            .iter()
            .map(|entry| {
                let address = entry.address.as_ref().unwrap();
                (address.plain, address.host.as_str(), address.path.as_str())
            })
            .collect();
        assert_eq!(
            addresses,
            [
                (false, "z.lan", "/v2"),
                (true, "a.lan:5000", "/some/path/v2"),
                (false, "m.lan", "/api"),
                (false, "r.lan", "/v2"),
            ]
        );
        assert_eq!((found[0].pull, found[0].resolve), (true, false));
        assert_eq!(found[0].skip_verify, Some(true));
        assert_eq!((found[1].pull, found[1].resolve), (true, true));
        assert_eq!(found[1].header.get_all("x-key").iter().count(), 2);
        assert_eq!(
            found[2].client,
            [("/c/r.lan/c.cert".into(), Some("/k/c.key".into()))]
        );
        assert_eq!(found[2].dial_timeout, Some(Duration::from_secs(3)));
        assert_eq!(found[3].ca, [PathBuf::from("/c/r.lan/ca.crt")]);
    }

    #[test]
    fn without_a_server_the_registry_itself_is_last() {
        let found = read("[host.\"https://m.lan\"]\n").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], HostEntry::default());
        let found = read("capabilities = [\"push\"]\n").unwrap();
        assert_eq!((found[0].pull, found[0].resolve), (true, true));
    }

    #[test]
    fn errors_name_file_field_and_value() {
        for (text, expected) in [
            ("ca = 5", "ca is 5, expected a file"),
            ("server = 5", "server is 5, expected a URL"),
            ("server = \"ftp://x\"", "server is \"ftp://x\""),
            (
                "skip_verify = \"yes\"",
                "skip_verify is \"yes\", expected true or false",
            ),
            (
                "[host.\"https://m\"]\ncapabilities = [\"pul\"]",
                "host.\"https://m\".capabilities is [\"pul\"]",
            ),
            (
                "[host.\"https://m\"]\nclient = [[\"a\"]]",
                "host.\"https://m\".client is [[\"a\"]]",
            ),
            ("dial_timeout = \"soon\"", "dial_timeout is \"soon\""),
            ("host = 1", "host is 1"),
            ("\nca = \"a", "line 2: "),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.starts_with("cannot use /c/r.lan/hosts.toml: "),
                "{error}"
            );
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn errors_repeat_no_secrets() {
        for (text, expected) in [
            (
                "[header]\nauthorization = \"s3cret\\n\"",
                "header.authorization is not a valid HTTP header",
            ),
            (
                "header = \"Bearer s3cret\"",
                "header is not a table of headers",
            ),
            (
                "[[host]]\n[host.header]\nauthorization = \"s3cret\"",
                "host is a list of tables",
            ),
            (
                "[host.\"http://ann:s3cret@m\"]\ncapabilities = [\"pul\"]",
                "host.\"http://[redacted]@m\".capabilities is [\"pul\"]",
            ),
            (
                "server = \"ftp://ann:s3cret@m\"",
                "server is \"ftp://[redacted]@m\"",
            ),
            ("host = { \"https://ann:s3cret@m\" = 1 }", "is 1"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn the_first_folder_that_exists_is_used() {
        let root = tempfile::tempdir().unwrap();
        let dirs = [root.path().join("none"), root.path().to_owned()];
        let add = |folder: &str, server: &str| {
            let folder = root.path().join(folder);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("hosts.toml"), format!("server = \"{server}\"")).unwrap();
        };
        let server = || {
            let found = entries(&dirs, "r.lan:5000").unwrap();
            found
                .first()
                .and_then(|entry| Some(entry.address.clone()?.host))
        };
        assert_eq!(server(), None);
        for (folder, name) in [("_default", "c"), ("r.lan:5000", "b"), ("r.lan_5000_", "a")] {
            add(folder, name);
            assert_eq!(server().as_deref(), Some(name));
        }
    }

    #[test]
    fn a_folder_without_hosts_toml_has_certificate_files() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("r.lan");
        std::fs::create_dir(&folder).unwrap();
        for file in ["ca.crt", "client.cert", "client.key", "other.cert", "x.txt"] {
            std::fs::write(folder.join(file), "").unwrap();
        }
        let found = entries(&[root.path().to_owned()], "r.lan").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].ca, [folder.join("ca.crt")]);
        assert_eq!(
            found[0].client,
            [
                (folder.join("client.cert"), Some(folder.join("client.key"))),
                (folder.join("other.cert"), None),
            ]
        );
        assert!(found[0].address.is_none() && found[0].has_tls());
    }

    #[test]
    fn containerds_configuration_names_the_folders() {
        for plugin in ["io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"] {
            let text = format!("version = 3\n[plugins.'{plugin}'.registry]\nconfig_path = '/a:/b'");
            assert_eq!(
                config_path(&text),
                [PathBuf::from("/a"), PathBuf::from("/b")]
            );
        }
        assert!(config_path("version = 2").is_empty());
        assert!(config_path("[plugins.cri.registry]\nconfig_path = ''").is_empty());
        assert!(config_path("=").is_empty());
    }
}
