//! From an identity token to an access token, by the OAuth 2 exchange of the distribution project
//! (`POST`, `grant_type=refresh_token`), which the client crate does not have.

use fledged_core::error::{Failure, Reason};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use oci_client::Reference;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::client::USER_AGENT;
use super::{Registry, failure};

/// Longest answer that is read; tokens are a few kilobytes at most.
const ANSWER_MAX: usize = 256 * 1024;

/// Either name is used by token servers.
#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token: Option<String>,
}

/// An access token to pull from the repository, for the holder of that identity token.
pub(crate) async fn access_token(
    registry: &Registry,
    reference: &Reference,
    identity: &SecretString,
    challenge: Option<&HeaderValue>,
) -> Result<String, Failure> {
    let action = format!("cannot log in to {}", reference.registry());
    let refused =
        |problem: &str| Failure::new(Reason::Unauthorized, format!("{action}: {problem}"));
    let (realm, service) = challenge
        .and_then(|value| value.to_str().ok())
        .and_then(bearer_challenge)
        .ok_or_else(|| refused("the registry takes no identity token"))?;
    let realm = Url::parse(&realm).map_err(|_| refused("its token server is no valid address"))?;
    // Whoever reads the token can keep using it, so it crosses a network only under TLS, unless
    // the registry itself was declared plain.
    if realm.scheme() != "https" && registry.scheme(reference.resolve_registry()) != "http" {
        return Err(refused("its token server is not reached over HTTPS"));
    }
    let mut form = Url::parse("form:").map_err(|_| refused("no form can be built"))?;
    form.query_pairs_mut()
        .append_pair("grant_type", "refresh_token")
        .append_pair("service", &service)
        .append_pair("client_id", USER_AGENT)
        .append_pair(
            "scope",
            &format!("repository:{}:pull", reference.repository()),
        )
        .append_pair("refresh_token", identity.expose_secret());
    let host = realm.host_str().unwrap_or_default();
    let mut response = registry
        .http(host)
        .post(realm.clone())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form.query().unwrap_or_default().to_owned())
        .send()
        .await
        .map_err(|error| failure::of_transport(&action, error))?;
    if !response.status().is_success() {
        let mut failure = failure::of_response(&action, response).await;
        // RFC 6749, 5.2: a token that is refused is answered with 400.
        if failure.reason == Reason::Unknown {
            failure.reason = Reason::Unauthorized;
        }
        return Err(failure);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| failure::of_transport(&action, error))?
    {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_MAX {
            break;
        }
    }
    serde_json::from_slice::<Answer>(&body)
        .ok()
        .and_then(|answer| answer.access_token.or(answer.token))
        .ok_or_else(|| {
            Failure::new(
                Reason::RegistryError,
                format!("{action}: the token server's answer holds no token"),
            )
        })
}

/// Realm and service of the `Bearer` challenge.
fn bearer_challenge(header: &str) -> Option<(String, String)> {
    let challenges = http_auth::parse_challenges(header).ok()?;
    let bearer = challenges
        .iter()
        .find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))?;
    let param = |name: &str| {
        bearer
            .params
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_unescaped())
    };
    Some((param("realm")?, param("service").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_bearer_challenge() {
        let header = r#"Basic realm="x", Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull""#;
        assert_eq!(
            bearer_challenge(header),
            Some((
                "https://auth.example/token".to_owned(),
                "r.example".to_owned()
            ))
        );
        assert_eq!(bearer_challenge(r#"Basic realm="x""#), None);
        assert_eq!(bearer_challenge(r#"Bearer service="x""#), None);
        assert_eq!(bearer_challenge("\u{1}"), None);
    }
}
