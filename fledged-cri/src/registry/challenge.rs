//! The challenges of a refused request (RFC 9110, section 11.6.1).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use http_auth::ChallengeRef;
use http_auth::parser::ChallengeParser;

/// Where a registry sends its clients for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BearerChallenge {
    /// The address of the token server, as the registry wrote it.
    pub(super) realm: String,
    pub(super) service: Option<String>,
    /// The scopes to ask for, separated by spaces.
    pub(super) scope: Option<String>,
}

/// Every challenge of one answer. A registry may send several headers, and several schemes in one
/// header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Challenges {
    /// The `Bearer` challenges that name a realm, in the order of the answer.
    pub(super) bearer: Vec<BearerChallenge>,
    pub(super) basic: bool,
    /// Challenges that this client cannot answer.
    pub(super) others: bool,
}

impl Challenges {
    pub(super) fn in_headers(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for value in headers.get_all(WWW_AUTHENTICATE) {
            // Header values may hold Latin-1; only the ASCII part matters.
            let text = String::from_utf8_lossy(value.as_bytes());
            if !text.trim().is_empty() {
                found.read(&text);
            }
        }
        found
    }

    fn read(&mut self, header: &str) {
        for challenge in ChallengeParser::new(header) {
            match challenge {
                Ok(challenge) => self.add(&challenge),
                Err(_) => return self.read_after_error(header),
            }
        }
    }

    /// Reads the `Bearer` challenge of a header whose other parts are malformed, for example
    /// `Negotiate dGVzdA==, Bearer realm="…"`.
    fn read_after_error(&mut self, header: &str) {
        self.others = true;
        let lower = header.to_ascii_lowercase();
        let tail = lower.rfind("bearer ").and_then(|at| header.get(at..));
        let parsed = ChallengeParser::new(tail.unwrap_or_default()).map_while(Result::ok);
        if self.bearer.is_empty() {
            parsed.for_each(|challenge| self.add(&challenge));
        }
    }

    fn add(&mut self, challenge: &ChallengeRef<'_>) {
        let param = |name: &str| {
            let mut params = challenge.params.iter();
            let (_, value) = params.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
            Some(value.to_unescaped()).filter(|value| !value.trim().is_empty())
        };
        match challenge.scheme.to_ascii_lowercase().as_str() {
            "basic" => self.basic = true,
            "bearer" => match param("realm") {
                Some(realm) => self.bearer.push(BearerChallenge {
                    realm,
                    service: param("service"),
                    scope: param("scope"),
                }),
                None => self.others = true,
            },
            _ => self.others = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn challenges(headers: &[&str]) -> Challenges {
        let values = headers.iter().map(|text| {
            let value = HeaderValue::from_str(text).unwrap();
            (WWW_AUTHENTICATE, value)
        });
        Challenges::in_headers(&values.collect())
    }

    const BEARER: &str = r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull""#;

    #[test]
    fn all_challenges_of_an_answer_are_read() {
        let expected = BearerChallenge {
            realm: "https://auth.example/token".to_owned(),
            service: Some("r.example".to_owned()),
            scope: Some("repository:a/b:pull".to_owned()),
        };
        let before = format!(r#"Basic realm="x", {BEARER}"#);
        let after = format!(r#"{BEARER}, Basic realm="x""#);
        for headers in [
            &[before.as_str()][..],
            &[after.as_str()],
            &[r#"Basic realm="x""#, BEARER],
            &[BEARER, r#"Basic realm="x""#],
        ] {
            let found = challenges(headers);
            assert_eq!(found.bearer, std::slice::from_ref(&expected), "{headers:?}");
            assert!(found.basic, "{headers:?}");
        }
        let negotiated = format!("Negotiate dGVzdA==, {BEARER}");
        for headers in [
            &[negotiated.as_str()][..],
            &["Negotiate", BEARER],
            &[r#"Digest realm="x", nonce="y""#, BEARER],
        ] {
            let found = challenges(headers);
            assert_eq!(found.bearer, std::slice::from_ref(&expected), "{headers:?}");
            assert!(found.others && !found.basic, "{headers:?}");
        }
    }

    #[test]
    fn a_challenge_without_a_realm_is_unusable() {
        for header in [
            r#"Bearer service="x""#,
            r#"Bearer realm="""#,
            r#"Digest realm="x""#,
            "=",
        ] {
            let found = challenges(&[header]);
            assert!(found.bearer.is_empty() && !found.basic, "{header}");
            assert!(found.others, "{header}");
        }
        assert_eq!(challenges(&[]), Challenges::default());
        assert_eq!(challenges(&[""]), Challenges::default());
    }

    #[test]
    fn names_are_case_insensitive_and_values_optional() {
        let found = challenges(&[r#"bearer Realm="https://a/", SCOPE="""#]);
        let expected = BearerChallenge {
            realm: "https://a/".to_owned(),
            service: None,
            scope: None,
        };
        assert_eq!(found.bearer, [expected]);
    }
}
