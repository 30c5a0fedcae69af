//! Registry credentials on their way to Docker Engine: the `X-Registry-Auth` header.

use bollard::BollardRequest;
use bollard::auth::DockerCredentials;
use fledged_core::model::ImageRef;
use fledged_core::port::RegistryAuth;
use http::HeaderValue;
use secrecy::ExposeSecret;

/// The header that carries credentials (Docker Engine API, "Authentication").
const HEADER: &str = "X-Registry-Auth";

/// The credentials as the Engine wants them.
pub(super) fn credentials(auth: &RegistryAuth, image: &ImageRef) -> DockerCredentials {
    let mut credentials = DockerCredentials {
        serveraddress: Some(image.registry().to_owned()),
        ..DockerCredentials::default()
    };
    match auth {
        RegistryAuth::Basic { username, password } => {
            credentials.username = Some(username.clone());
            credentials.password = Some(password.expose_secret().to_owned());
        }
        RegistryAuth::IdentityToken(token) => {
            credentials.identitytoken = Some(token.expose_secret().to_owned());
        }
        RegistryAuth::RegistryToken(token) => {
            credentials.registrytoken = Some(token.expose_secret().to_owned());
        }
    }
    credentials
}

/// The part of the credentials that nobody may read.
pub(super) fn secret(auth: &RegistryAuth) -> &str {
    match auth {
        RegistryAuth::Basic { password, .. } => password.expose_secret(),
        RegistryAuth::IdentityToken(token) | RegistryAuth::RegistryToken(token) => {
            token.expose_secret()
        }
    }
}

/// Puts the header into the URL-safe alphabet of base64, the only one that the Engine reads, and
/// marks it as secret.
///
/// The client writes the standard alphabet. The Engine takes a header that it cannot decode for
/// "no credentials" and pulls anonymously, so that some passwords would work and others not.
pub(super) fn fit_for_engine(mut request: BollardRequest) -> BollardRequest {
    let Some(value) = request.headers_mut().get_mut(HEADER) else {
        return request;
    };
    let fitted: Vec<u8> = value
        .as_bytes()
        .iter()
        .map(|byte| match byte {
            b'+' => b'-',
            b'/' => b'_',
            other => *other,
        })
        .collect();
    if let Ok(mut fitted) = HeaderValue::from_bytes(&fitted) {
        fitted.set_sensitive(true);
        *value = fitted;
    }
    request
}
