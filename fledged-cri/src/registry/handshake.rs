//! From credentials to what goes into an `Authorization` header.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fledged_core::error::{Failure, Reason};
use fledged_core::port::RegistryAuth;
use http::HeaderValue;
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth as ClientAuth;
use oci_client::token_cache::RegistryOperation;
use oci_client::{Client, Reference};
use secrecy::ExposeSecret;

use super::{Registry, failure, refresh};

/// What a registry's 401 is answered with; `None`: there is nothing to offer.
///
/// `challenge` is the 401's `WWW-Authenticate`.
pub(crate) async fn authorize(
    registry: &Registry,
    reference: &Reference,
    auth: Option<&RegistryAuth>,
    challenge: Option<&HeaderValue>,
) -> Result<Option<HeaderValue>, Failure> {
    let action = format!("cannot log in to {}", reference.registry());
    let (client_auth, basic) = match auth {
        None => (ClientAuth::Anonymous, None),
        Some(RegistryAuth::Basic { username, password }) => {
            let password = password.expose_secret();
            (
                ClientAuth::Basic(username.clone(), password.to_owned()),
                Some(basic(username, password)?),
            )
        }
        Some(RegistryAuth::IdentityToken(token)) => {
            let token = refresh::access_token(registry, reference, token, challenge).await?;
            return bearer(&token).map(Some);
        }
        // Sent with the first request already; there is no second one to be had for it.
        Some(RegistryAuth::RegistryToken(_)) => return Ok(None),
    };
    // A client of its own for every handshake: it remembers credentials by registry, and those are
    // to be forgotten as soon as they have served.
    let client = Client::try_from(registry.handshake_config(reference.resolve_registry()))
        .map_err(|error| refused(&action, error))?;
    let token = client
        .auth(reference, &client_auth, RegistryOperation::Pull)
        .await
        .map_err(|error| refused(&action, error))?;
    match token {
        Some(token) => bearer(&token).map(Some),
        None => Ok(basic),
    }
}

/// `Bearer` with that token; never shown by `Debug`.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    sensitive(format!("Bearer {token}"))
}

fn basic(username: &str, password: &str) -> Result<HeaderValue, Failure> {
    sensitive(format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    ))
}

fn sensitive(text: String) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::try_from(text).map_err(|_| {
        Failure::new(
            Reason::Unauthorized,
            "the credentials hold characters that no header can carry",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn refused(action: &str, error: OciDistributionError) -> Failure {
    match error {
        OciDistributionError::AuthenticationFailure(body) => {
            failure::of_token_server(action, &body)
        }
        OciDistributionError::RequestError(error) => failure::of_transport(action, error),
        OciDistributionError::RegistryTokenDecodeError(_) => Failure::new(
            Reason::RegistryError,
            format!("{action}: the token server's answer holds no token"),
        ),
        other => Failure::new(Reason::RegistryError, format!("{action}: {other}")),
    }
}
