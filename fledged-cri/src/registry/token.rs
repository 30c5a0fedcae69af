//! The token handshake: from a registry's challenge and a set of credentials to the value of an
//! `Authorization` header (distribution specification, "Token Authentication").

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fledged_core::error::{Failure, Reason};
use fledged_core::port::RegistryAuth;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use http_auth::parser::ChallengeParser;
use reqwest::{Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::client::{
    Registry, Repository, USER_AGENT, failure_of_refused_token, failure_of_transport, read_at_most,
};

/// Longest answer of a token server that is read, in bytes. Tokens have a few kilobytes.
const ANSWER_MAX: usize = 256 * 1024;

/// The `Authorization` header that answers a registry's 401, or `None` if there is nothing to send.
///
/// `refusal` holds the headers of the 401. A `Bearer` challenge leads to its token server: with the
/// user name and password, if there are any, with an identity token (OAuth 2,
/// `grant_type=refresh_token`), or anonymously. Without a `Bearer` challenge a user name and password
/// are sent as they are. A registry token was already part of the refused request.
///
/// # Errors
///
/// [`Reason::Unauthorized`] if the token server refuses, [`Reason::TooManyRequests`],
/// [`Reason::RegistryError`] or [`Reason::ConnectionFailed`].
pub(crate) async fn authorize(
    registry: &Registry,
    repository: &Repository,
    auth: Option<&RegistryAuth>,
    refusal: &HeaderMap,
) -> Result<Option<HeaderValue>, Failure> {
    let handshake = Handshake {
        registry,
        repository,
        action: format!("cannot log in to {}", repository.registry),
    };
    let challenge = BearerChallenge::in_headers(refusal);
    let token = match (auth, &challenge) {
        (Some(RegistryAuth::RegistryToken(_)), _) | (None, None) => return Ok(None),
        (Some(RegistryAuth::Basic { username, password }), None) => {
            return basic(username, password).map(Some);
        }
        (Some(RegistryAuth::Basic { username, password }), Some(challenge)) => {
            let header = basic(username, password)?;
            handshake.fetch(challenge, Some(header)).await?
        }
        (None, Some(challenge)) => handshake.fetch(challenge, None).await?,
        (Some(RegistryAuth::IdentityToken(identity)), Some(challenge)) => {
            handshake.exchange(challenge, identity).await?
        }
        (Some(RegistryAuth::IdentityToken(_)), None) => {
            return Err(handshake.refused("the registry does not accept identity tokens"));
        }
    };
    bearer(&token).map(Some)
}

/// `Bearer` with that token; `Debug` does not show it.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    sensitive(format!("Bearer {token}"))
}

fn basic(username: &str, password: &SecretString) -> Result<HeaderValue, Failure> {
    let pair = format!("{username}:{}", password.expose_secret());
    sensitive(format!("Basic {}", STANDARD.encode(pair)))
}

fn sensitive(text: String) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::try_from(text).map_err(|_| {
        Failure::new(
            Reason::Unauthorized,
            "the credentials contain characters that are not allowed in an HTTP header",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where a registry sends its clients for a token.
#[derive(Debug, PartialEq, Eq)]
struct BearerChallenge {
    realm: String,
    service: Option<String>,
}

impl BearerChallenge {
    /// The first usable `Bearer` challenge; a registry may send others, in the same header or in
    /// several.
    fn in_headers(headers: &HeaderMap) -> Option<Self> {
        headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(Self::parse)
    }

    fn parse(header: &str) -> Option<Self> {
        ChallengeParser::new(header)
            .filter_map(Result::ok)
            .filter(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))
            .find_map(|challenge| {
                let param = |name: &str| {
                    let mut params = challenge.params.iter();
                    let (_, value) = params.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                    Some(value.to_unescaped())
                };
                Some(Self {
                    realm: param("realm")?,
                    service: param("service"),
                })
            })
    }
}

/// A token server's answer. Servers use either name; where both are present they are equal.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

struct Handshake<'a> {
    registry: &'a Registry,
    repository: &'a Repository,
    /// What failed, as messages begin.
    action: String,
}

impl Handshake<'_> {
    /// Gets a token by `GET`, with credentials or anonymously.
    async fn fetch(
        &self,
        challenge: &BearerChallenge,
        authorization: Option<HeaderValue>,
    ) -> Result<String, Failure> {
        let mut url = self.realm(challenge)?;
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("scope", &self.scope());
            if let Some(service) = &challenge.service {
                query.append_pair("service", service);
            }
        }
        let client = self.registry.http(url.host_str().unwrap_or_default());
        let mut request = client.get(url);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let response = request.send().await;
        self.token(response).await
    }

    /// Exchanges an identity token for an access token, by the distribution project's OAuth 2
    /// `POST`.
    async fn exchange(
        &self,
        challenge: &BearerChallenge,
        identity: &SecretString,
    ) -> Result<String, Failure> {
        let url = self.realm(challenge)?;
        // An identity token is valid for long, so it is sent without TLS only to a registry that is
        // itself configured as plain HTTP.
        if url.scheme() != "https" && self.registry.scheme(&self.repository.host) != "http" {
            return Err(self.refused("its token server does not use HTTPS"));
        }
        let mut form = Url::parse("form:").map_err(|_| self.refused("no form can be built"))?;
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", challenge.service.as_deref().unwrap_or_default())
            .append_pair("client_id", USER_AGENT)
            .append_pair("scope", &self.scope())
            .append_pair("refresh_token", identity.expose_secret());
        let client = self.registry.http(url.host_str().unwrap_or_default());
        let response = client
            .post(url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.query().unwrap_or_default().to_owned())
            .send()
            .await;
        self.token(response).await
    }

    async fn token(&self, response: reqwest::Result<Response>) -> Result<String, Failure> {
        let transport = |error| failure_of_transport(&self.action, error);
        let response = response.map_err(transport)?;
        if !response.status().is_success() {
            return Err(failure_of_refused_token(&self.action, response).await);
        }
        let body = read_at_most(response, ANSWER_MAX)
            .await
            .map_err(transport)?;
        if body.len() > ANSWER_MAX {
            return Err(self.invalid(&format!("is longer than {ANSWER_MAX} bytes")));
        }
        serde_json::from_slice::<Answer>(&body)
            .ok()
            .and_then(|answer| answer.token.or(answer.access_token))
            .ok_or_else(|| self.invalid("holds no token"))
    }

    fn realm(&self, challenge: &BearerChallenge) -> Result<Url, Failure> {
        Url::parse(&challenge.realm)
            .map_err(|_| self.refused("the address of its token server is not a valid URL"))
    }

    fn scope(&self) -> String {
        format!("repository:{}:pull", self.repository.path)
    }

    fn refused(&self, problem: &str) -> Failure {
        Failure::new(Reason::Unauthorized, format!("{}: {problem}", self.action))
    }

    fn invalid(&self, problem: &str) -> Failure {
        Failure::new(
            Reason::RegistryError,
            format!("{}: the token server's answer {problem}", self.action),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(headers: &[&str]) -> Option<(String, Option<String>)> {
        let values = headers.iter().map(|text| {
            let value = HeaderValue::from_str(text).unwrap();
            (WWW_AUTHENTICATE, value)
        });
        let found = BearerChallenge::in_headers(&values.collect())?;
        Some((found.realm, found.service))
    }

    #[test]
    fn finds_the_bearer_challenge() {
        let bearer = r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull""#;
        let both = format!(r#"Basic realm="x", {bearer}"#);
        let expected = (
            "https://auth.example/token".to_owned(),
            Some("r.example".to_owned()),
        );
        for headers in [
            &[bearer][..],
            &[both.as_str()],
            &[r#"Basic realm="x""#, bearer],
        ] {
            assert_eq!(challenge(headers), Some(expected.clone()), "{headers:?}");
        }
        assert_eq!(
            challenge(&[r#"bearer Realm="https://a/""#]),
            Some(("https://a/".to_owned(), None))
        );
        for none in [r#"Basic realm="x""#, r#"Bearer service="x""#, "=", ""] {
            assert_eq!(challenge(&[none]), None, "{none}");
        }
        assert_eq!(challenge(&[]), None);
    }

    #[test]
    fn authorization_headers_are_sensitive() {
        let password = SecretString::from("right");
        let header = basic("user", &password).unwrap();
        assert_eq!(header, "Basic dXNlcjpyaWdodA==");
        assert!(!format!("{header:?}").contains("dXNl"));
        assert!(!format!("{:?}", bearer("t0ken").unwrap()).contains("t0ken"));
        assert_eq!(bearer("\n").unwrap_err().reason, Reason::Unauthorized);
    }
}
