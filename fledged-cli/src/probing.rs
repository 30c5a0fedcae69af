//! Asking registries, with no runtime.

use std::sync::Arc;

use fledged_core::error::{ErrorClass, Failure, Reason};
use fledged_core::port::{Credentials, CredentialsRequest};
use fledged_cri::registry::{Platform, Probe, Registry};

use crate::args::RegistryArgs;
use crate::session::{SessionError, credentials, platform, registry_options};

/// Registries, and what is needed to ask them.
pub struct Prober {
    registry: Registry,
    credentials: Arc<dyn Credentials>,
    platform: Platform,
}

impl Prober {
    /// By the arguments.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when the credentials or this machine's certificates can't be read.
    pub fn open(args: &RegistryArgs) -> Result<Self, SessionError> {
        Ok(Self {
            registry: Registry::new(registry_options(args)).map_err(SessionError::Registries)?,
            credentials: credentials(args)?,
            platform: platform(args),
        })
    }

    /// For which platform it asks.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Whether one image can be pulled, with each set of credentials in turn until one is accepted,
    /// as a pull does it.
    ///
    /// # Errors
    ///
    /// The failure that a pull would end with.
    pub async fn probe(&self, request: &CredentialsRequest) -> Result<Probe, Failure> {
        let mut attempts: Vec<_> = self
            .credentials
            .resolve(request)
            .await?
            .into_iter()
            .map(Some)
            .collect();
        if attempts.is_empty() {
            attempts.push(None);
        }
        let mut refused = Failure::new(Reason::Unknown, "no attempt was made");
        for auth in attempts {
            match self
                .registry
                .probe(&request.image, auth, &self.platform)
                .await
            {
                Ok(probe) => return Ok(probe),
                Err(failure) => refused = failure,
            }
            // Some registries say "not found" to whoever may not look.
            if !matches!(
                refused.class(),
                ErrorClass::Unauthorized | ErrorClass::NotFound
            ) {
                break;
            }
        }
        Err(refused)
    }
}
