//! The way to the Engine: found when it is first needed, and found again after it was lost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};
use fledged_core::error::{Failure, Reason};
use tokio::sync::Mutex;

use super::auth::fit_for_engine;
use super::failure;

/// How long the Engine may take to begin an answer. Listing and disk usage walk its whole store,
/// which takes minutes on slow disks; the Docker CLI waits as long as it takes.
pub(super) const ANSWER: Duration = Duration::from_secs(120);

/// How long it may take to begin the answer to a pull, which it does when the registry has answered:
/// in effect without limit, because a pull has a deadline of its own that drops it.
const PULL_ANSWER: Duration = Duration::from_secs(24 * 60 * 60);

/// Docker Engine behind a Unix socket.
#[derive(Debug)]
pub(super) struct Connection {
    socket: PathBuf,
    /// The client with the API version negotiated; every request opens a connection of its own.
    client: Mutex<Option<Docker>>,
}

impl Connection {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            client: Mutex::new(None),
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client that has agreed on an API version with the Engine.
    pub(super) async fn client(&self) -> Result<Docker, Failure> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let connected = self.connect().await?;
        *client = Some(connected.clone());
        Ok(connected)
    }

    /// The same for a pull, which may begin late.
    pub(super) async fn pull_client(&self) -> Result<Docker, Failure> {
        Ok(self.client().await?.with_timeout(PULL_ANSWER))
    }

    async fn connect(&self) -> Result<Docker, Failure> {
        let path = self.socket.to_str().ok_or_else(|| {
            let path = self.socket.display();
            let problem = format!("the socket's path {path} is not valid UTF-8");
            Failure::new(Reason::RuntimeUnavailable, problem)
        })?;
        Docker::connect_with_unix(path, ANSWER.as_secs(), API_DEFAULT_VERSION)
            .map_err(|e| failure::of(&e, &self.socket, None))?
            .with_request_modifier(fit_for_engine)
            .negotiate_version()
            .await
            .map_err(|e| failure::of(&e, &self.socket, None))
    }

    /// The failure in an error; an Engine that does not answer is looked for anew next time, since
    /// the one that comes back may be another version.
    pub(super) async fn failure(&self, error: &bollard::errors::Error) -> Failure {
        self.failure_with(error, None).await
    }

    /// The same of a call that a secret was sent along with.
    pub(super) async fn failure_with(
        &self,
        error: &bollard::errors::Error,
        secret: Option<&str>,
    ) -> Failure {
        let failure = failure::of(error, &self.socket, secret);
        if failure.reason == Reason::RuntimeUnavailable {
            *self.client.lock().await = None;
        }
        failure
    }
}
