//! Why an API server can't be started.

/// Why an API server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address can't be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// An object to start with was refused.
    #[error("cannot seed {object}: {message}")]
    Seed {
        /// Kind and name of the object.
        object: String,
        /// The message of the `Status` that the API would have answered.
        message: String,
    },
    /// There is no tokio runtime to run the garbage collector on.
    #[error("no tokio runtime is running")]
    NoRuntime,
    /// A client for the server can't be built.
    #[error("cannot build a client")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}
