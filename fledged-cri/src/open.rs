//! From a runtime's URI to the runtime.

use std::sync::Arc;

use fledged_core::port::ImageRuntime;

use crate::cri::CriRuntime;
use crate::docker::DockerRuntime;
use crate::oci::{OciLayoutOptions, OciLayoutRuntime, OpenError};
use crate::target::RuntimeUri;

/// The runtime that a URI names. `layout` counts for `oci:` only; the others pull by their own
/// configuration.
///
/// A socket is connected to when it is first used, and again whenever the runtime was gone.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = fledged_cri::open(&"unix:///run/containerd/containerd.sock".parse()?, Default::default())?;
/// for image in runtime.list().await? {
///     println!("{} {}", image.id, image.size);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`OpenError`] when a folder can't be used as an OCI layout.
pub fn open(
    uri: &RuntimeUri,
    layout: OciLayoutOptions,
) -> Result<Arc<dyn ImageRuntime>, OpenError> {
    Ok(match uri {
        RuntimeUri::Cri(socket) => Arc::new(CriRuntime::connect(socket)),
        RuntimeUri::Docker(socket) => Arc::new(DockerRuntime::new(socket)),
        RuntimeUri::Oci(folder) => Arc::new(OciLayoutRuntime::open(folder, layout)?),
    })
}
