//! Credentials as CRI takes them.

use fledged_core::port::RegistryAuth;
use secrecy::ExposeSecret;

use super::proto::AuthConfig;

/// `AuthConfig` for one set of credentials.
///
/// `server_address` stays empty, as the kubelet leaves it: containerd drops credentials whose
/// address is not literally the host it speaks to, which Docker Hub's and mirrors' are not.
pub(super) fn auth_config(auth: &RegistryAuth) -> AuthConfig {
    match auth {
        RegistryAuth::Basic { username, password } => AuthConfig {
            username: username.clone(),
            password: password.expose_secret().to_owned(),
            ..AuthConfig::default()
        },
        RegistryAuth::IdentityToken(token) => AuthConfig {
            identity_token: token.expose_secret().to_owned(),
            ..AuthConfig::default()
        },
        RegistryAuth::RegistryToken(token) => AuthConfig {
            registry_token: token.expose_secret().to_owned(),
            ..AuthConfig::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_goes_into_its_field() {
        let basic = auth_config(&RegistryAuth::Basic {
            username: "ann".to_owned(),
            password: "hush".into(),
        });
        assert_eq!((&*basic.username, &*basic.password), ("ann", "hush"));
        assert_eq!(basic.auth, "");

        let identity = auth_config(&RegistryAuth::IdentityToken("refresh".into()));
        assert_eq!(identity.identity_token, "refresh");
        let registry = auth_config(&RegistryAuth::RegistryToken("bearer".into()));
        assert_eq!(registry.registry_token, "bearer");
    }

    #[test]
    fn debug_shows_no_secret() {
        let auth = auth_config(&RegistryAuth::Basic {
            username: "ann".to_owned(),
            password: "hush".into(),
        });
        let request = super::super::proto::PullImageRequest {
            image: None,
            auth: Some(auth),
        };
        assert!(!format!("{request:?}").contains("hush"));
    }
}
