//! One entry of a docker configuration: the credentials for one registry.
//!
//! Problems are told by name only: a parser's own words may repeat the value, which is a secret.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use fledged_core::port::RegistryAuth;
use secrecy::SecretString;
use serde_json::Value;

/// Padding is optional: both forms are found in the wild.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads an entry; `None` where it holds nothing, as docker leaves it when a credential store has
/// the rest.
///
/// A token goes before a user name, and `auth` before `username` and `password`, as in docker.
pub(crate) fn parse(entry: &Value) -> Result<Option<RegistryAuth>, &'static str> {
    let Value::Object(fields) = entry else {
        return Err("must be an object");
    };
    let text = |name: &str, problem| match fields.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.trim()),
        Some(_) => Err(problem),
    };
    let identity = text("identitytoken", "\"identitytoken\" must be a string")?;
    let registry = text("registrytoken", "\"registrytoken\" must be a string")?;
    let auth = text("auth", "\"auth\" must be a string")?;
    let username = text("username", "\"username\" must be a string")?;
    let password = text("password", "\"password\" must be a string")?;
    if !identity.is_empty() {
        return Ok(Some(RegistryAuth::IdentityToken(SecretString::from(
            identity,
        ))));
    }
    if !registry.is_empty() {
        return Ok(Some(RegistryAuth::RegistryToken(SecretString::from(
            registry,
        ))));
    }
    if !auth.is_empty() {
        return basic(auth).map(Some);
    }
    match (username, password) {
        ("", "") => Ok(None),
        ("", _) => Err("has a \"password\" without a \"username\""),
        (_, "") => Err("has a \"username\" without a \"password\""),
        (username, password) => Ok(Some(RegistryAuth::Basic {
            username: username.to_owned(),
            password: SecretString::from(password),
        })),
    }
}

/// Decodes `auth`, base64 of `username:password`.
fn basic(auth: &str) -> Result<RegistryAuth, &'static str> {
    let bytes = BASE64
        .decode(auth)
        .map_err(|_| "\"auth\" is not valid base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "\"auth\" does not decode to text")?;
    let (username, password) = text
        .split_once(':')
        .ok_or("\"auth\" does not decode to username:password")?;
    if username.is_empty() {
        return Err("\"auth\" decodes to an empty user name");
    }
    Ok(RegistryAuth::Basic {
        username: username.to_owned(),
        // Old docker versions padded with zero bytes before encoding.
        password: SecretString::from(password.trim_matches('\0')),
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;

    fn shown(entry: &Value) -> Result<String, &'static str> {
        Ok(match parse(entry)? {
            None => "none".to_owned(),
            Some(RegistryAuth::Basic { username, password }) => {
                format!("basic {username} {}", password.expose_secret())
            }
            Some(RegistryAuth::IdentityToken(token)) => {
                format!("identity {}", token.expose_secret())
            }
            Some(RegistryAuth::RegistryToken(token)) => {
                format!("registry {}", token.expose_secret())
            }
        })
    }

    #[test]
    fn reads_every_form() {
        for (entry, expected) in [
            (json!({"auth": "dXNlcjpwYTpzcw=="}), "basic user pa:ss"),
            (json!({"auth": "dXNlcjpwYTpzcw"}), "basic user pa:ss"),
            (json!({"auth": "dXNlcjpwYTpzcw==\n"}), "basic user pa:ss"),
            (json!({"auth": "dXNlcjpwAAA="}), "basic user p"),
            (
                json!({"username": "u", "password": "p", "email": "x@y"}),
                "basic u p",
            ),
            (
                json!({"username": "u", "password": "p", "auth": "dXNlcjpwYTpzcw=="}),
                "basic user pa:ss",
            ),
            (
                json!({"auth": "MDAwOg==", "identitytoken": "tok"}),
                "identity tok",
            ),
            (json!({"registrytoken": "tok"}), "registry tok"),
            (json!({}), "none"),
            (json!({"auth": ""}), "none"),
        ] {
            assert_eq!(shown(&entry).as_deref(), Ok(expected), "{entry}");
        }
    }

    #[test]
    fn says_what_is_wrong_without_the_secret() {
        for entry in [
            json!("s3cret"),
            json!({"auth": "s3cret!"}),
            json!({"auth": "s3cret"}),
            json!({"auth": "czNjcmV0"}),
            json!({"auth": "OnMzY3JldA=="}),
            json!({"auth": {"s3cret": 1}}),
            json!({"password": "s3cret"}),
            json!({"username": "s3cret"}),
            json!({"identitytoken": ["s3cret"]}),
        ] {
            let problem = shown(&entry).unwrap_err();
            assert!(!problem.contains("s3cret"), "{problem}");
        }
    }
}
