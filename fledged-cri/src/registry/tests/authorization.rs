//! Challenges, token servers, and where credentials go.

use std::time::Duration;

use fledged_core::error::Reason;
use fledged_core::port::RegistryAuth;
use secrecy::SecretString;

use super::super::fake::unit::password;
use super::super::fake::{Answer, Asked, Fake, image};

const TOKEN: &str = "Bearer t0ken";
/// `ann:secret` in base64.
const ANN: &str = "Basic YW5uOnNlY3JldA==";

fn granted() -> Answer {
    Answer::new(200, r#"{"token":"t0ken"}"#)
}

/// A token server's answer, or the challenge that leads to it.
fn token_or_challenge(asked: &Asked, addr: &str, token: Answer) -> Answer {
    if asked.is("GET", "/token") {
        return token;
    }
    Answer::challenge(format!(r#"Bearer realm="http://{addr}/token""#))
}

/// A registry that asks for a token with `challenge`, in which `{}` is its own address.
async fn with_challenges(challenges: &'static [&'static str]) -> Fake {
    Fake::start(move |asked, addr| {
        if asked.target.starts_with("/token") {
            return granted();
        }
        if asked.authorization() == Some(TOKEN) {
            return image(asked);
        }
        challenges
            .iter()
            .fold(Answer::new(401, ""), |answer, text| {
                answer.with("www-authenticate", text.replace("{}", addr))
            })
    })
    .await
}

#[tokio::test]
async fn the_challenge_of_the_refused_request_counts() {
    let registry = with_challenges(&[
        r#"Bearer realm="http://{}/token/app",service="s",scope="repository:other/name:pull""#,
    ])
    .await;
    registry.probe(password("secret")).await.unwrap();
    let asked = registry.asked();
    assert!(
        asked.iter().all(|asked| asked.target != "/v2/"),
        "{asked:?}"
    );
    let tokens: Vec<_> = asked.iter().filter(|a| a.is("GET", "/token")).collect();
    assert_eq!(tokens.len(), 1, "{asked:?}");
    assert_eq!(
        tokens[0].target,
        "/token/app?scope=repository%3Aother%2Fname%3Apull&service=s"
    );
    assert_eq!(tokens[0].authorization(), Some(ANN));
}

#[tokio::test]
async fn a_missing_scope_is_that_of_a_pull() {
    let registry = with_challenges(&[r#"Bearer realm="http://{}/token?x=y""#]).await;
    registry.probe(None).await.unwrap();
    let asked = registry.asked();
    let token = asked.iter().find(|a| a.is("GET", "/token")).unwrap();
    assert_eq!(
        token.target,
        "/token?x=y&scope=repository%3Ateam%2Fapp%3Apull"
    );
    assert_eq!(token.authorization(), None);
}

#[tokio::test]
async fn several_scopes_are_asked_for_separately() {
    let registry =
        with_challenges(&[r#"Bearer realm="http://{}/token",scope="repository:a:pull b:c:d""#])
            .await;
    registry.probe(None).await.unwrap();
    let asked = registry.asked();
    let token = asked.iter().find(|a| a.is("GET", "/token")).unwrap();
    assert_eq!(
        token.target,
        "/token?scope=repository%3Aa%3Apull&scope=b%3Ac%3Ad"
    );
}

#[tokio::test]
async fn a_bearer_challenge_precedes_a_basic_one() {
    for challenges in [
        &[r#"Basic realm="x", Bearer realm="http://{}/token""#][..],
        &[r#"Basic realm="x""#, r#"Bearer realm="http://{}/token""#],
        &["Negotiate", r#"Bearer realm="http://{}/token""#],
        &[
            r#"Bearer realm="nowhere""#,
            r#"Bearer realm="http://{}/token""#,
        ],
    ] {
        let registry = with_challenges(challenges).await;
        for auth in [None, password("secret")] {
            registry.probe(auth).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_basic_challenge_gets_the_password() {
    for challenge in [
        r#"Basic realm="x""#,
        r#"Digest realm="x", Basic realm="y""#,
        "",
    ] {
        let registry = Fake::start(move |asked, _| match asked.authorization() {
            Some(ANN) => image(asked),
            _ => Answer::challenge(challenge),
        })
        .await;
        registry.probe(password("secret")).await.unwrap();
        let failure = registry.probe(None).await.unwrap_err();
        assert_eq!(failure.reason, Reason::Unauthorized, "{failure}");
    }
    let digest_only = Fake::start(|_, _| Answer::challenge(r#"Digest realm="x""#)).await;
    let failure = digest_only.probe(password("secret")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::Unauthorized, "{failure}");
    assert_eq!(digest_only.authorizations(), [""; 0]);
}

#[tokio::test]
async fn another_registry_is_authorised_by_its_own_token() {
    let target = with_challenges(&[r#"Bearer realm="http://{}/token",service="b""#]).await;
    let to = target.addr.clone();
    let named = Fake::start(move |asked, _| {
        Answer::redirect(format!(
            "http://{to}{}",
            asked.target.replace("team/", "moved/")
        ))
    })
    .await;
    for auth in [None, password("secret")] {
        named.probe(auth).await.unwrap();
    }
    let asked = target.asked();
    let token = asked.iter().find(|a| a.is("GET", "/token")).unwrap();
    assert_eq!(
        token.target,
        "/token?scope=repository%3Amoved%2Fapp%3Apull&service=b"
    );
    assert!(target.authorizations().iter().all(|sent| sent == TOKEN));
    assert_eq!(named.authorizations(), [""; 0]);
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect() {
    let identity = Some(RegistryAuth::IdentityToken(SecretString::from("s3cret")));
    let registry_token = Some(RegistryAuth::RegistryToken(SecretString::from("s3cret")));
    for challenge in [
        r#"Bearer realm="http://{}/token""#,
        r#"Basic realm="x""#,
        r#"Basic realm="x", Bearer realm="http://{}/token""#,
        "",
    ] {
        let thief = Fake::start(move |asked, addr| {
            if asked.is("GET", "/token") {
                return Answer::new(403, "");
            }
            Answer::challenge(challenge.replace("{}", addr))
        })
        .await;
        let to = thief.addr.clone();
        let named =
            Fake::start(move |asked, _| Answer::redirect(format!("http://{to}{}", asked.target)))
                .await;
        for auth in [password("secret"), identity.clone(), registry_token.clone()] {
            let failure = named.probe(auth).await.unwrap_err();
            assert_eq!(failure.reason, Reason::Unauthorized, "{failure}");
        }
        assert_eq!(thief.authorizations(), [""; 0], "{challenge}");
        let posted = thief.asked().into_iter().find(|a| !a.body.is_empty());
        assert!(posted.is_none(), "{posted:?}");
    }
}

#[tokio::test]
async fn a_token_server_redirect_gets_no_credentials() {
    let thief = Fake::start(|_, _| granted()).await;
    let to = thief.addr.clone();
    let registry = Fake::start(move |asked, addr| {
        if asked.target.starts_with("/token") {
            return Answer::redirect(format!("http://{to}/token"));
        }
        match asked.authorization() {
            Some(TOKEN) => image(asked),
            _ => Answer::challenge(format!(r#"Bearer realm="http://{addr}/token""#)),
        }
    })
    .await;
    let identity = Some(RegistryAuth::IdentityToken(SecretString::from("s3cret")));
    for auth in [password("secret"), identity] {
        let failure = registry.probe(auth).await.unwrap_err();
        assert_eq!(failure.reason, Reason::RegistryError, "{failure}");
    }
    assert!(thief.asked().is_empty(), "{:?}", thief.asked());
    registry.probe(None).await.unwrap();
}

#[tokio::test]
async fn a_failing_token_server_is_tried_again_later() {
    let unknown = r#"{"errors":[{"code":"UNKNOWN","message":"internal server error"}]}"#;
    for (status, body, expected) in [
        (503, "", Reason::RegistryError),
        (500, unknown, Reason::RegistryError),
        (502, "<h1>Bad Gateway</h1>", Reason::RegistryError),
        (404, "", Reason::RegistryError),
        (200, "", Reason::RegistryError),
        (200, r#"{"token":""}"#, Reason::RegistryError),
        (429, "slow down", Reason::TooManyRequests),
        (401, "", Reason::Unauthorized),
        (403, "", Reason::Unauthorized),
        (400, r#"{"error":"invalid_grant"}"#, Reason::Unauthorized),
    ] {
        let registry = Fake::start(move |asked, addr| {
            token_or_challenge(
                asked,
                addr,
                Answer::new(status, body).with("retry-after", "30"),
            )
        })
        .await;
        for auth in [None, password("secret")] {
            let failure = registry.probe(auth).await.unwrap_err();
            assert_eq!(failure.reason, expected, "{status} {body}: {failure}");
            if status != 200 {
                assert_eq!(
                    failure.retry_after,
                    Some(Duration::from_secs(30)),
                    "{failure}"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_unreachable_token_server_is_no_refusal() {
    let registry =
        Fake::start(|_, _| Answer::challenge(r#"Bearer realm="http://127.0.0.1:1/token""#)).await;
    let failure = registry.probe(password("secret")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ConnectionFailed, "{failure}");
}

#[tokio::test]
async fn long_answers_of_a_token_server_are_not_read() {
    // The server states far more than it sends: reading to the end would fail.
    for (status, expected) in [(200, "is longer than"), (500, "500 Internal Server Error")] {
        let registry = Fake::start(move |asked, addr| {
            let long = "x".repeat(400_000);
            let answer = Answer::new(status, long).with("content-length", "900000000");
            token_or_challenge(asked, addr, answer)
        })
        .await;
        let failure = registry.probe(None).await.unwrap_err();
        assert_eq!(failure.reason, Reason::RegistryError, "{failure}");
        assert!(failure.message.contains(expected), "{failure}");
        assert!(failure.message.len() < 1000, "{failure}");
    }
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let registry = Fake::start(|asked, _| Answer::redirect(asked.target.clone())).await;
    let failure = registry.probe(None).await.unwrap_err();
    assert_eq!(failure.reason, Reason::RegistryError, "{failure}");
    assert_eq!(registry.asked().len(), 11);
}

#[tokio::test]
async fn an_echoed_password_is_not_shown() {
    for secret in ["hunter2", "ab"] {
        let registry = Fake::start(move |asked, addr| {
            token_or_challenge(
                asked,
                addr,
                Answer::new(401, format!("ann/{secret}: wrong")),
            )
        })
        .await;
        let failure = registry.probe(password(secret)).await.unwrap_err();
        assert!(
            failure.message.contains("ann/[redacted]: wrong"),
            "{failure}"
        );
    }
}
