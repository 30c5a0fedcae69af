//! Patterns for images: registry with globs, port, and path prefix, as in the kubelet
//! (`pkg/credentialprovider`).

use fledged_core::model::ImageRef;

/// A pattern for an image's registry and repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Host, in which `*` and `?` match characters of one label.
    host: String,
    port: String,
    /// Path prefix with its leading slash, or empty.
    path: String,
}

impl Pattern {
    /// Reads a key: `registry.example`, `*.example:5000`, `registry.example/team`,
    /// `https://index.docker.io/v1/`.
    pub(super) fn parse(key: &str) -> Option<Self> {
        let rest = key
            .strip_prefix("https://")
            .or_else(|| key.strip_prefix("http://"))
            .unwrap_or(key);
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.is_empty() || rest.contains(|c: char| c.is_whitespace() || c == '@') {
            return None;
        }
        // API versions are not part of a repository's name.
        let path = ["/v1", "/v2"]
            .iter()
            .find_map(|version| {
                path.strip_prefix(version)
                    .filter(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .unwrap_or(path);
        let (host, port) = split_port(authority);
        Some(Self {
            host: host.to_ascii_lowercase(),
            port: port.to_owned(),
            path: if path == "/" {
                String::new()
            } else {
                path.to_owned()
            },
        })
    }

    /// Reads an entry of `matchImages` in the kubelet's `CredentialProviderConfig`. As in the kubelet, it is a
    /// URL without its scheme: a query and a fragment are ignored, and no API version is removed from its path.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn parse_match_image(text: &str) -> Result<Self, &'static str> {
        if text.contains(|c: char| c.is_ascii_control()) {
            return Err("it contains a control character");
        }
        let before = |text, end: &[char]| str::split(text, end).next().unwrap_or_default();
        let url: &str = before(text, &['#', '?']);
        let authority = before(url, &['/']);
        let path = url.get(authority.len()..).unwrap_or_default();
        let authority = authority.rsplit('@').next().unwrap_or_default();
        // RFC 3986 with Go's exceptions.
        let in_host =
            |c: char| c.is_alphanumeric() || !c.is_ascii() || "-_.~!$&'()*+,;=:[]<>\"".contains(c);
        if !authority.chars().all(in_host) {
            return Err("its host contains a character that is not allowed in hosts");
        }
        let (host, port) = split_port(authority);
        let literal = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if literal.unwrap_or(host).contains(['[', ']']) {
            return Err("its host has brackets that do not enclose an IPv6 address");
        }
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("its port is not a number");
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port: port.to_owned(),
            path: unescape(path)
                .ok_or("its path has a % that two hexadecimal digits do not follow")?,
        })
    }

    pub(super) fn matches(&self, image: &ImageRef) -> bool {
        let (host, port) = split_port(image.registry());
        let host = host.to_ascii_lowercase();
        let (globs, labels) = (self.host.split('.'), host.split('.'));
        self.port == port
            && globs.clone().count() == labels.clone().count()
            && globs
                .zip(labels)
                .all(|(glob, label)| glob_matches(glob, label))
            && format!("/{}", image.repository()).starts_with(&self.path)
    }

    /// The sort key. In descending order, a longer path precedes its prefix, and names precede globs.
    pub(super) fn rank(&self) -> String {
        let colon = if self.port.is_empty() { "" } else { ":" };
        format!("{}{colon}{}{}", self.host, self.port, self.path)
    }
}

/// Host and port; an IPv6 address keeps its brackets.
fn split_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    }
}

/// A path without percent-encoding.
fn unescape(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        bytes.push(is_hex.then(|| u8::from_str_radix(digits, 16).ok())??);
        bytes.extend_from_slice(part.get(2..)?.as_bytes());
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a label matches a glob of `*` (any characters) and `?` (one).
fn glob_matches(glob: &str, label: &str) -> bool {
    let (glob, label): (Vec<char>, Vec<char>) = (glob.chars().collect(), label.chars().collect());
    // The position of the last star, and the end of what it matches so far.
    let (mut g, mut l, mut star) = (0, 0, None);
    while let Some(c) = label.get(l) {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, l));
                g += 1;
            }
            Some(p) if p == c || *p == '?' => {
                g += 1;
                l += 1;
            }
            _ => match star {
                Some((at, matched)) => {
                    star = Some((at, matched + 1));
                    g = at + 1;
                    l = matched + 1;
                }
                None => return false,
            },
        }
    }
    glob.get(g..)
        .is_some_and(|rest| rest.iter().all(|c| *c == '*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn match_images_match_as_in_the_kubelet() {
        for (pattern, image, matches) in [
            (
                "*.dkr.ecr.*.amazonaws.com",
                "1.dkr.ecr.eu-west-1.amazonaws.com/team/app:1",
                true,
            ),
            (
                "*.dkr.ecr.*.amazonaws.com",
                "1.dkr.ecr.eu-west-1.amazonaws.com.cn/app",
                false,
            ),
            (
                "*.dkr.ecr.*.amazonaws.com.cn",
                "1.dkr.ecr.cn-north-1.amazonaws.com.cn/app",
                true,
            ),
            (
                "*.dkr.ecr.*.amazonaws.com",
                "dkr.ecr.eu-west-1.amazonaws.com/app",
                false,
            ),
            ("*.azurecr.io", "team.azurecr.io/app", true),
            ("*.azurecr.io", "azurecr.io/app", false),
            ("*.azurecr.io", "a.b.azurecr.io/app", false),
            ("*.azurecr.io", "team.azurecr.io:443/app", false),
            (
                "*-docker.pkg.dev",
                "europe-docker.pkg.dev/project/repository/app",
                true,
            ),
            ("*-docker.pkg.dev", "docker.pkg.dev/project/app", false),
            (
                "gcr.io",
                "gcr.io/project/app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                true,
            ),
            ("gcr.io", "eu.gcr.io/project/app", false),
            ("*.*.registry.example", "a.b.registry.example/app", true),
            ("*.*.registry.example", "a.registry.example/app", false),
            ("registry.*", "registry.example/app", true),
            ("app*.registry.example", "app1.registry.example/app", true),
            ("app*.registry.example", "a.registry.example/app", false),
            ("*", "localhost/app", true),
            ("*", "registry.example/app", false),
            ("*.*", "registry.example/app", true),
            ("*.*", "nginx", true),
            (
                "registry.example:8080/path",
                "registry.example:8080/path/app",
                true,
            ),
            (
                "registry.example:8080/path",
                "registry.example:8080/pathology",
                true,
            ),
            (
                "registry.example:8080/path",
                "registry.example/path/app",
                false,
            ),
            (
                "registry.example:8080/path",
                "registry.example:8080/app",
                false,
            ),
            (
                "registry.example/team/app",
                "registry.example/team/app:1",
                true,
            ),
            (
                "registry.example/team/app:1",
                "registry.example/team/app:1",
                false,
            ),
            ("registry.example/*/app", "registry.example/team/app", false),
            ("registry.example/", "registry.example/app", true),
            ("registry.example/v2/", "registry.example/app", false),
            ("registry.example/v2/", "registry.example/v2/app", true),
            ("registry.example/te%61m", "registry.example/team/app", true),
            ("registry.example?x#y", "registry.example/app", true),
            ("user@registry.example", "registry.example/app", true),
            ("docker.io", "nginx", true),
            ("docker.io/library", "nginx:1", true),
            ("index.docker.io", "nginx", false),
            ("", "registry.example/app", false),
            // A scheme is read as a host.
            ("https://registry.example", "registry.example/app", false),
        ] {
            let found = Pattern::parse_match_image(pattern).unwrap();
            let found = found.matches(&image.parse().unwrap());
            assert_eq!(found, matches, "{pattern} for {image}");
        }
    }

    #[test]
    fn malformed_match_images_are_refused() {
        assert!(Pattern::parse_match_image("[::1]:5000/app").is_ok());
        for text in [
            "registry.example:port",
            "registry.example:*",
            "registry.example:80x",
            "registry example",
            "registry.example/\u{7f}",
            "reg\\istry.example",
            "{registry}.example",
            "a[bc].example",
            "[::1",
            "registry.example/%zz",
            "registry.example/%4",
        ] {
            assert!(Pattern::parse_match_image(text).is_err(), "{text}");
        }
    }
}
