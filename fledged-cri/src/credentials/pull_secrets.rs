//! Credentials from the pull secrets of pods.

use fledged_core::model::ImageRef;
use fledged_core::port::RegistryAuth;
use serde_json::Value;

use super::docker_config::{DockerConfigError, keyring, object};
use super::keyring::Keyring;

/// Credentials from any number of pull secrets, merged as in the kubelet (`pkg/credentialprovider`): the
/// most specific entry of all secrets comes first, and of equally specific entries that of the secret
/// that was added first.
///
/// Unlike in a [`DockerConfig`](crate::DockerConfig), a malformed entry is not an error. It affects only
/// the images that it matches, because many pods share a secret.
///
/// ```
/// use fledged_cri::PullSecretKeyring;
///
/// let mut all = PullSecretKeyring::default();
/// all.extend(PullSecretKeyring::from_docker_config_json(br#"{"auths":{"r.example":{"auth":"dTpw"}}}"#)?);
/// all.extend(PullSecretKeyring::from_docker_cfg(br#"{"r.example":{"auth":"dTpw"}}"#)?);
/// assert_eq!(all.find(&"r.example/app:1".parse()?).len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct PullSecretKeyring(Keyring);

impl PullSecretKeyring {
    /// The content of `.dockerconfigjson` in a `kubernetes.io/dockerconfigjson` Secret.
    ///
    /// # Errors
    ///
    /// [`DockerConfigError`] if it is not such a document.
    pub fn from_docker_config_json(content: &[u8]) -> Result<Self, DockerConfigError> {
        let fields = object(content)?;
        match fields.get("auths") {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(Value::Object(entries)) => Ok(Self(keyring(entries))),
            Some(_) => Err(DockerConfigError::Malformed {
                problem: "\"auths\" must be an object",
            }),
        }
    }

    /// The content of `.dockercfg` in a `kubernetes.io/dockercfg` Secret.
    ///
    /// # Errors
    ///
    /// [`DockerConfigError`] if it is not such a document.
    pub fn from_docker_cfg(content: &[u8]) -> Result<Self, DockerConfigError> {
        Ok(Self(keyring(&object(content)?)))
    }

    /// Adds another secret's entries.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The credentials for an image, in the order to try them.
    #[must_use]
    pub fn find(&self, image: &ImageRef) -> Vec<RegistryAuth> {
        self.0.find(image).auths
    }

    /// The first malformed entry that matches an image.
    #[must_use]
    pub fn malformed_for(&self, image: &ImageRef) -> Option<DockerConfigError> {
        let found = self.0.find(image);
        let malformed = found.malformed.first()?;
        Some(DockerConfigError::Entry {
            registry: malformed.key.clone(),
            problem: malformed.problem,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_secret(entries: &[(&str, &str)]) -> PullSecretKeyring {
        let entries = entries.iter().map(|(key, user)| {
            let entry = serde_json::json!({"username": user, "password": "p"});
            ((*key).to_owned(), entry)
        });
        let auths: serde_json::Map<String, Value> = entries.collect();
        let content = serde_json::json!({"auths": auths}).to_string();
        PullSecretKeyring::from_docker_config_json(content.as_bytes()).unwrap()
    }

    fn users(keyring: &PullSecretKeyring, image: &str) -> Vec<String> {
        let auths = keyring.find(&image.parse().unwrap());
        let user = |auth| match auth {
            RegistryAuth::Basic { username, .. } => username,
            other => panic!("{other:?}"),
        };
        auths.into_iter().map(user).collect()
    }

    #[test]
    fn entries_are_sorted_across_secrets() {
        let mut all = mk_secret(&[("r.example", "first"), ("other.example", "none")]);
        all.extend(mk_secret(&[
            ("r.example/team", "team"),
            ("r.example", "second"),
        ]));
        all.extend(mk_secret(&[("https://r.example/v2/", "third")]));
        assert_eq!(
            users(&all, "r.example/team/app:1"),
            ["team", "first", "second", "third"]
        );
        assert_eq!(users(&all, "nginx"), [""; 0]);
    }

    #[test]
    fn docker_hub_matches_across_secrets() {
        let mut all = mk_secret(&[("https://index.docker.io/v1/", "index")]);
        assert_eq!(users(&all, "nginx"), ["index"]);
        all.extend(mk_secret(&[("docker.io", "named")]));
        assert_eq!(users(&all, "nginx"), ["named"]);
    }

    #[test]
    fn a_malformed_entry_affects_only_its_own_images() {
        let content =
            br#"{"auths":{"bad.example":{"auth":"s3cret!"},"good.example":{"auth":"dTpw"}}}"#;
        let secret = PullSecretKeyring::from_docker_config_json(content).unwrap();
        let (bad, good) = ("bad.example/a".parse().unwrap(), "good.example/a");
        assert_eq!(users(&secret, good), ["u"]);
        assert!(secret.malformed_for(&good.parse().unwrap()).is_none());
        assert!(secret.find(&bad).is_empty());
        let text = secret.malformed_for(&bad).unwrap().to_string();
        assert!(
            text.contains("\"bad.example\"") && !text.contains("s3cret"),
            "{text}"
        );
    }

    #[test]
    fn errors_repeat_nothing_of_the_content() {
        for content in ["s3cret", r#"["s3cret"]"#, r#"{"auths":"s3cret"}"#, ""] {
            let error = PullSecretKeyring::from_docker_config_json(content.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
        assert!(PullSecretKeyring::from_docker_cfg(b"[]").is_err());
        let empty = PullSecretKeyring::from_docker_config_json(b"{}").unwrap();
        assert_eq!(users(&empty, "nginx"), [""; 0]);
    }
}
