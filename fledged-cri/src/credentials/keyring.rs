//! Which entries of a docker configuration match which image, as in the kubelet
//! (`pkg/credentialprovider`).

use std::cmp::Reverse;

use fledged_core::model::ImageRef;
use fledged_core::port::RegistryAuth;

use super::image_pattern::Pattern;

/// The key of Docker Hub in docker configurations (`https://index.docker.io/v1/`), normalised.
const DOCKER_HUB: &str = "index.docker.io";

/// An entry that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// The key as it is written in the configuration.
    pub(crate) key: String,
    pub(crate) problem: &'static str,
}

/// The entries for an image.
#[derive(Debug, Default)]
pub(crate) struct Found<'a> {
    pub(crate) auths: Vec<RegistryAuth>,
    /// Malformed entries that match the image.
    pub(crate) malformed: Vec<&'a Malformed>,
}

/// The entries of one configuration, the most specific first.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    entries: Vec<(Pattern, Result<RegistryAuth, Malformed>)>,
    /// Malformed entries whose key is not a registry. They match no image.
    keyless: Vec<Malformed>,
}

impl Keyring {
    /// Adds an entry, unless it is empty.
    pub(crate) fn add(&mut self, key: &str, entry: Result<Option<RegistryAuth>, &'static str>) {
        let malformed = |problem| Malformed {
            key: key.to_owned(),
            problem,
        };
        let Some(pattern) = Pattern::parse(key) else {
            self.keyless.push(malformed("the key is not a registry"));
            return;
        };
        let entry = match entry {
            Ok(None) => return,
            Ok(Some(auth)) => Ok(auth),
            Err(problem) => Err(malformed(problem)),
        };
        self.entries.push((pattern, entry));
        // Stable: entries with equal patterns stay in order.
        self.entries
            .sort_by_cached_key(|(pattern, _)| Reverse(pattern.rank()));
    }

    /// Adds the entries of another keyring, after its own entries with equal patterns.
    pub(crate) fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.entries
            .sort_by_cached_key(|(pattern, _)| Reverse(pattern.rank()));
        self.keyless.extend(other.keyless);
    }

    /// Every malformed entry.
    pub(crate) fn malformed(&self) -> impl Iterator<Item = &Malformed> {
        self.entries
            .iter()
            .filter_map(|(_, entry)| entry.as_ref().err())
            .chain(&self.keyless)
    }

    /// The entries for an image. Docker Hub's key counts only if no entry names `docker.io`.
    pub(crate) fn find(&self, image: &ImageRef) -> Found<'_> {
        let found = self.collect(|pattern| pattern.matches(image));
        let none = found.auths.is_empty() && found.malformed.is_empty();
        if none && image.registry() == "docker.io" {
            return self.collect(|pattern| pattern.rank() == DOCKER_HUB);
        }
        found
    }

    fn collect(&self, matches: impl Fn(&Pattern) -> bool) -> Found<'_> {
        let mut found = Found::default();
        for (_, entry) in self.entries.iter().filter(|(pattern, _)| matches(pattern)) {
            match entry {
                Ok(auth) => found.auths.push(auth.clone()),
                Err(malformed) => found.malformed.push(malformed),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;

    fn users(keys: &[&str], image: &str) -> Vec<String> {
        let mut keyring = Keyring::default();
        for key in keys {
            let auth = RegistryAuth::Basic {
                username: (*key).to_owned(),
                password: SecretString::from("p"),
            };
            keyring.add(key, Ok(Some(auth)));
        }
        let found = keyring.find(&image.parse().unwrap());
        found
            .auths
            .into_iter()
            .map(|auth| match auth {
                RegistryAuth::Basic { username, .. } => username,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn keys_match_as_in_the_kubelet() {
        for (key, image, matches) in [
            ("registry.example", "registry.example/app", true),
            ("registry.example", "registry.example:5000/app", false),
            ("registry.example:5000", "registry.example:5000/app", true),
            ("https://registry.example", "registry.example/app", true),
            ("http://registry.example/v2/", "registry.example/app", true),
            ("registry.example/v1", "registry.example/app", true),
            ("registry.example/", "registry.example/app", true),
            ("registry.example/team", "registry.example/team/app", true),
            ("registry.example/team", "registry.example/other/app", false),
            (
                "registry.example/v2/team",
                "registry.example/team/app",
                true,
            ),
            ("other.example", "registry.example/app", false),
            ("*.example", "registry.example/app", true),
            ("*.example", "a.registry.example/app", false),
            ("*.*.example", "a.registry.example/app", true),
            ("reg*y.example", "registry.example/app", true),
            ("reg?stry.example", "registry.example/app", true),
            ("r*g*z.example", "registry.example/app", false),
            ("*.example:5000", "registry.example:5000/app", true),
            ("Registry.Example", "registry.example/app", true),
            ("127.0.0.1:5000", "127.0.0.1:5000/app", true),
            ("https://index.docker.io/v1/", "nginx", true),
            ("index.docker.io", "docker.io/team/app", true),
            ("docker.io", "nginx", true),
            ("docker.io/library", "nginx", true),
            ("docker.io/team", "nginx", false),
            (
                "https://index.docker.io/v1/",
                "registry.example/nginx",
                false,
            ),
        ] {
            assert_eq!(
                !users(&[key], image).is_empty(),
                matches,
                "{key} for {image}"
            );
        }
    }

    #[test]
    fn the_most_specific_entry_comes_first() {
        let keys = [
            "*.example",
            "registry.example",
            "registry.example/team",
            "registry.example/team/app",
        ];
        assert_eq!(
            users(&keys, "registry.example/team/app:1"),
            [
                "registry.example/team/app",
                "registry.example/team",
                "registry.example",
                "*.example"
            ]
        );
        assert_eq!(
            users(&["docker.io", "https://index.docker.io/v1/"], "nginx"),
            ["docker.io"]
        );
        assert_eq!(
            users(
                &["https://registry.example", "registry.example"],
                "registry.example/app"
            )
            .len(),
            2
        );
    }

    #[test]
    fn a_malformed_entry_counts_only_for_its_own_images() {
        let mut keyring = Keyring::default();
        keyring.add("bad.example", Err("is broken"));
        keyring.add("", Err("is broken"));
        let of = |image: &str| keyring.find(&image.parse().unwrap()).malformed.len();
        assert_eq!(of("bad.example/app"), 1);
        assert_eq!(of("good.example/app"), 0);
        assert_eq!(keyring.malformed().count(), 2);
    }
}
