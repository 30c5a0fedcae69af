//! Where certificates of our own are kept, so that replicas share them and a restart changes nothing.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use super::authority::Issued;
use super::bundle::FIELD_MANAGER;

/// Keys of the Secret's data.
const BUNDLE: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// One Secret.
#[derive(Clone)]
pub(super) struct Kept {
    api: Api<Secret>,
    name: String,
}

/// The Secret as it was read, to be written back over that and nothing else.
pub(super) struct Read {
    pub(super) issued: Option<Issued>,
    found: Option<Secret>,
}

impl Read {
    /// Whether there is no such Secret.
    pub(super) fn is_missing(&self) -> bool {
        self.found.is_none()
    }
}

/// How a write ended.
pub(super) enum Written {
    Done,
    /// Another replica was first.
    Overtaken,
}

impl Kept {
    pub(super) fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
        }
    }

    pub(super) async fn read(&self) -> kube::Result<Read> {
        let found = self.api.get_opt(&self.name).await?;
        let issued = found.as_ref().and_then(issued);
        Ok(Read { issued, found })
    }

    pub(super) async fn write(&self, read: Read, issued: &Issued) -> kube::Result<Written> {
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let written = match read.found {
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                };
                let secret = filled(
                    Secret {
                        metadata,
                        ..Secret::default()
                    },
                    issued,
                );
                self.api.create(&params, &secret).await
            }
            // With the version that was read: whoever was faster has won.
            Some(found) => {
                let secret = filled(found, issued);
                self.api.replace(&self.name, &params, &secret).await
            }
        };
        match written {
            Ok(_) => Ok(Written::Done),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                Ok(Written::Overtaken)
            }
            Err(error) => Err(error),
        }
    }
}

fn issued(secret: &Secret) -> Option<Issued> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(Issued {
        bundle: text(BUNDLE)?,
        authority_key: text(AUTHORITY_KEY)?,
        certificate: text(CERTIFICATE)?,
        key: text(KEY)?,
    })
}

fn filled(mut secret: Secret, issued: &Issued) -> Secret {
    let data = secret.data.get_or_insert_default();
    for (key, value) in [
        (BUNDLE, &issued.bundle),
        (AUTHORITY_KEY, &issued.authority_key),
        (CERTIFICATE, &issued.certificate),
        (KEY, &issued.key),
    ] {
        data.insert(key.to_owned(), ByteString(value.clone().into_bytes()));
    }
    secret
}
