//! The token handshake: from a registry's challenge and a set of credentials to the value of an
//! `Authorization` header (distribution specification, "Token Authentication").

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fledged_core::error::{Failure, Reason};
use fledged_core::port::RegistryAuth;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use reqwest::{Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::challenge::{BearerChallenge, Challenges};
use super::client::{
    Http, USER_AGENT, failure_of_refused_token, failure_of_transport, read_at_most,
};
use super::redirect::{Origin, REDIRECTS_MAX, redirect};

/// Longest answer of a token server that is read, in bytes. Tokens have a few kilobytes.
const ANSWER_MAX: usize = 256 * 1024;

/// `Bearer` with that token; `Debug` does not show it.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, Failure> {
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

/// Lifetime of a token without `expires_in`, and the shortest that is believed (distribution token
/// specification).
const LIFETIME_MIN: Duration = Duration::from_secs(60);
/// Taken off a token's lifetime, for the time that the answer and the next request take.
const LIFETIME_MARGIN: Duration = Duration::from_secs(5);

/// An `Authorization` header, and how long it is valid.
pub(super) struct Authorization {
    pub(super) header: HeaderValue,
    /// `None`: unlimited.
    pub(super) lifetime: Option<Duration>,
}

/// A registry that has refused a request.
pub(super) struct Login<'a> {
    pub(super) http: &'a Http,
    /// The registry as messages name it.
    pub(super) name: &'a str,
    /// The repository of the refused request.
    pub(super) repository: &'a str,
    /// Whether the registry itself serves plain HTTP. Only then may its token server.
    pub(super) plain: bool,
    /// The headers of the registry in `hosts.toml`. As with containerd, its token server gets them, too.
    pub(super) headers: HeaderMap,
}

impl Login<'_> {
    /// The `Authorization` header that answers the challenges of a 401, or `None` if there is nothing
    /// to send.
    ///
    /// A `Bearer` challenge precedes a `Basic` one. It leads to its token server: with the user name
    /// and password, if there are any, with an identity token (OAuth 2, `grant_type=refresh_token`),
    /// or anonymously. Without a `Bearer` challenge a user name and password are sent as they are. A
    /// registry token was already part of the refused request.
    ///
    /// # Errors
    ///
    /// [`Reason::Unauthorized`] if the token server refuses, [`Reason::TooManyRequests`],
    /// [`Reason::RegistryError`] or [`Reason::ConnectionFailed`].
    pub(super) async fn authorize(
        &self,
        auth: Option<&RegistryAuth>,
        challenges: &Challenges,
    ) -> Result<Option<Authorization>, Failure> {
        if let Some(RegistryAuth::RegistryToken(_)) = auth {
            return Ok(None);
        }
        let realm = challenges
            .bearer
            .iter()
            .find_map(|challenge| Some((challenge, self.realm(challenge).ok()?)));
        let token = match (auth, realm) {
            (Some(RegistryAuth::Basic { username, password }), None)
                if challenges.basic || *challenges == Challenges::default() =>
            {
                let header = basic(username, password)?;
                return Ok(Some(Authorization {
                    header,
                    lifetime: None,
                }));
            }
            (None | Some(RegistryAuth::Basic { .. }), None) => {
                return match challenges.bearer.first().map(|first| self.realm(first)) {
                    Some(Err(failure)) if !challenges.basic => Err(failure),
                    _ => Ok(None),
                };
            }
            (Some(RegistryAuth::Basic { username, password }), Some((challenge, realm))) => {
                let header = basic(username, password)?;
                self.fetch(challenge, realm, Some(header)).await?
            }
            (Some(RegistryAuth::IdentityToken(identity)), Some((challenge, realm))) => {
                self.exchange(challenge, realm, identity).await?
            }
            (Some(RegistryAuth::IdentityToken(_)), None) => {
                return match challenges.bearer.first().map(|first| self.realm(first)) {
                    Some(Err(failure)) => Err(failure),
                    _ => Err(self.refused("the registry does not accept identity tokens")),
                };
            }
            (_, Some((challenge, realm))) => self.fetch(challenge, realm, None).await?,
            (_, None) => return Ok(None),
        };
        Ok(Some(token))
    }

    /// The address of a token server. It uses TLS, unless the registry itself does not.
    fn realm(&self, challenge: &BearerChallenge) -> Result<Url, Failure> {
        let url = Url::parse(&challenge.realm)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        match url {
            None => Err(self.refused("the address of its token server is not a valid URL")),
            Some(url) if url.scheme() != "https" && !self.plain => {
                Err(self.refused("its token server does not use HTTPS"))
            }
            Some(url) => Ok(url),
        }
    }

    /// Gets a token by `GET`, with credentials or anonymously.
    async fn fetch(
        &self,
        challenge: &BearerChallenge,
        mut url: Url,
        authorization: Option<HeaderValue>,
    ) -> Result<Authorization, Failure> {
        {
            let mut query = url.query_pairs_mut();
            for scope in self.scope(challenge).split_whitespace() {
                query.append_pair("scope", scope);
            }
            if let Some(service) = &challenge.service {
                query.append_pair("service", service);
            }
        }
        let origin = Origin::of(&url);
        let mut headers = self.headers.clone();
        if let Some(value) = &authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        for _ in 0..=REDIRECTS_MAX {
            let client = self.http.client(&url);
            let request = client.get(url).headers(headers.clone());
            let response = request
                .send()
                .await
                .map_err(|error| failure_of_transport(&self.action(), error))?;
            let Some(next) = redirect(&response).map_err(|problem| self.invalid(problem))? else {
                return self.token(response).await;
            };
            if authorization.is_some() && Origin::of(&next) != origin {
                return Err(self.invalid(&format!(
                    "redirects to {}, to which no credentials are sent",
                    Origin::of(&next)
                )));
            }
            if next.scheme() != "https" && !self.plain {
                return Err(self.invalid("redirects to an address without HTTPS"));
            }
            if Origin::of(&next) != origin {
                headers.clear();
            }
            url = next;
        }
        Err(self.invalid(&format!("redirects more than {REDIRECTS_MAX} times")))
    }

    /// Exchanges an identity token for an access token, by the distribution project's OAuth 2
    /// `POST`. Redirects are not followed.
    async fn exchange(
        &self,
        challenge: &BearerChallenge,
        url: Url,
        identity: &SecretString,
    ) -> Result<Authorization, Failure> {
        let mut form = Url::parse("form:").map_err(|_| self.refused("no form can be built"))?;
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", challenge.service.as_deref().unwrap_or_default())
            .append_pair("client_id", USER_AGENT)
            .append_pair("scope", &self.scope(challenge))
            .append_pair("refresh_token", identity.expose_secret());
        let client = self.http.client(&url);
        let response = client
            .post(url)
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.query().unwrap_or_default().to_owned())
            .send()
            .await
            .map_err(|error| failure_of_transport(&self.action(), error))?;
        self.token(response).await
    }

    async fn token(&self, response: Response) -> Result<Authorization, Failure> {
        if !response.status().is_success() {
            return Err(failure_of_refused_token(&self.action(), response).await);
        }
        let body = read_at_most(response, ANSWER_MAX)
            .await
            .map_err(|error| failure_of_transport(&self.action(), error))?;
        if body.len() > ANSWER_MAX {
            return Err(self.invalid(&format!(
                "sends an answer that is longer than {ANSWER_MAX} bytes"
            )));
        }
        let (token, lifetime) = parse_answer(&body)
            .ok_or_else(|| self.invalid("sends an answer that holds no token"))?;
        Ok(Authorization {
            header: bearer(&token)?,
            lifetime: Some(lifetime),
        })
    }

    /// The scope that the registry asks for; else the one for a pull.
    fn scope(&self, challenge: &BearerChallenge) -> String {
        match &challenge.scope {
            Some(scope) => scope.clone(),
            None => format!("repository:{}:pull", self.repository),
        }
    }

    /// What failed, as messages begin.
    fn action(&self) -> String {
        format!("cannot log in to {}", self.name)
    }

    fn refused(&self, problem: &str) -> Failure {
        Failure::new(
            Reason::Unauthorized,
            format!("{}: {problem}", self.action()),
        )
    }

    fn invalid(&self, problem: &str) -> Failure {
        Failure::new(
            Reason::RegistryError,
            format!("{}: the token server {problem}", self.action()),
        )
    }
}

/// The token in a token server's answer, and how long it is used.
pub(super) fn parse_answer(body: &[u8]) -> Option<(String, Duration)> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let lifetime = answer.lifetime();
    let mut tokens = [answer.token, answer.access_token].into_iter().flatten();
    Some((tokens.find(|token| !token.is_empty())?, lifetime))
}

/// A token server's answer. Servers use either name; where both are present they are equal.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Answer {
    fn lifetime(&self) -> Duration {
        let seconds = self.expires_in.as_f64().unwrap_or_default();
        Duration::try_from_secs_f64(seconds)
            .unwrap_or_default()
            .max(LIFETIME_MIN)
            .saturating_sub(LIFETIME_MARGIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifetime(answer: &str) -> u64 {
        let answer: Answer = serde_json::from_str(answer).unwrap();
        answer.lifetime().as_secs()
    }

    #[test]
    fn a_token_lives_a_minute_unless_stated() {
        assert_eq!(lifetime(r#"{"token":"x"}"#), 55);
        assert_eq!(lifetime(r#"{"token":"x","expires_in":1}"#), 55);
        assert_eq!(lifetime(r#"{"token":"x","expires_in":-1e300}"#), 55);
        assert_eq!(lifetime(r#"{"token":"x","expires_in":null}"#), 55);
        assert_eq!(lifetime(r#"{"token":"x","expires_in":"soon"}"#), 55);
        assert_eq!(lifetime(r#"{"access_token":"x","expires_in":300}"#), 295);
    }

    #[test]
    fn a_realm_without_tls_is_refused() {
        let registry = super::super::Registry::new(Default::default()).unwrap();
        let http = registry.default_http().unwrap();
        let login = |plain| Login {
            http: &http,
            name: "r.example",
            repository: "a/b",
            plain,
            headers: HeaderMap::new(),
        };
        let challenge = |realm: &str| BearerChallenge {
            realm: realm.to_owned(),
            service: None,
            scope: None,
        };
        let (tls, clear) = (challenge("https://a/"), challenge("http://a/"));
        assert!(login(false).realm(&tls).is_ok() && login(true).realm(&tls).is_ok());
        assert!(login(false).realm(&clear).is_err() && login(true).realm(&clear).is_ok());
        for bad in ["", "/token", "file:///x", "data:x"] {
            assert!(login(true).realm(&challenge(bad)).is_err(), "{bad}");
        }
        assert_eq!(login(false).scope(&tls), "repository:a/b:pull");
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
