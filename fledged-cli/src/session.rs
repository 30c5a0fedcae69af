//! STUB
use crate::args::{RegistryArgs, RuntimeArgs};
use fledged_core::driver::{NodeLoop, NodeObserver};
use fledged_core::error::{Failure, Reason};
use fledged_core::model::*;
use fledged_core::node::*;
use fledged_core::ports::*;
use std::sync::Arc;

/// x
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// x
    #[error("stub")]
    Stub,
}
impl SessionError {
    /// x
    pub fn is_bad_input(&self) -> bool {
        false
    }
}
/// x
pub struct Session {
    /// x
    pub runtime: Arc<dyn ImageRuntime>,
    credentials: Arc<dyn Credentials>,
    clock: Arc<dyn Clock>,
}
impl Session {
    /// x
    pub async fn open(_: &RuntimeArgs) -> Result<Self, SessionError> {
        Err(SessionError::Stub)
    }
    /// x
    pub async fn layout(_: &std::path::Path, _: Vec<String>) -> Result<Self, SessionError> {
        Err(SessionError::Stub)
    }
    /// x
    pub fn node_loop(
        &self,
        config: WarmerConfig,
        observer: Arc<impl NodeObserver + 'static>,
    ) -> NodeLoop {
        NodeLoop::new(
            Warmer::new(config, 1),
            self.runtime.clone(),
            self.credentials.clone(),
            self.clock.clone(),
            observer,
        )
    }
    /// x
    pub async fn wait(_: &RuntimeArgs, _: impl Fn(&SessionError)) -> Result<Self, SessionError> {
        Err(SessionError::Stub)
    }
}
/// x
pub struct Probe {
    /// x
    pub digest: Digest,
    /// x
    pub size: ByteSize,
    /// x
    pub platforms: Vec<String>,
}
/// x
pub struct RegistrySession;
impl RegistrySession {
    /// x
    pub fn open(_: &RegistryArgs) -> Result<Self, SessionError> {
        Err(SessionError::Stub)
    }
    /// x
    pub async fn probe(&self, _: &CredentialsRequest) -> Result<Probe, Failure> {
        Err(Failure::new(Reason::Unknown, ""))
    }
    /// x
    pub fn platform(&self) -> String {
        String::new()
    }
}
