//! From a runtime's URI to the runtime.

use std::sync::Arc;

#[cfg(feature = "oci")]
use fledged_core::error::Failure;
use fledged_core::port::ImageRuntime;

use crate::target::RuntimeUri;

/// Options of [`open`], each for one kind of runtime.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Options of an OCI image layout.
    #[cfg(feature = "oci")]
    pub layout: crate::OciLayoutOptions,
    /// How layers are fetched for containerd; `None`: containerd fetches them itself. See
    /// [`CriRuntime::with_fetcher`](crate::CriRuntime::with_fetcher).
    #[cfg(all(feature = "cri", feature = "oci"))]
    pub fetcher: Option<crate::FetcherOptions>,
}

/// Why a runtime cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The backend of the URI is not part of this program.
    #[error(
        "cannot open {uri}: this program is built without the feature \"{feature}\" of fledged-cri"
    )]
    NotCompiledIn {
        /// The runtime.
        uri: RuntimeUri,
        /// The Cargo feature of this crate that contains the backend.
        feature: &'static str,
    },
    /// The folder cannot be used as an OCI image layout.
    #[cfg(feature = "oci")]
    #[error(transparent)]
    Layout(crate::LayoutError),
    /// HTTPS cannot be set up, because this machine's certificates cannot be read.
    #[cfg(feature = "oci")]
    #[error(transparent)]
    Registry(Failure),
}

#[cfg(feature = "oci")]
impl From<crate::LayoutError> for OpenError {
    fn from(error: crate::LayoutError) -> Self {
        match error {
            crate::LayoutError::Registry(failure) => Self::Registry(failure),
            other => Self::Layout(other),
        }
    }
}

/// Opens the runtime that a URI names.
///
/// A socket is connected to on the first call, and again after the runtime was unavailable.
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
/// [`OpenError`] if the backend is not compiled in, or a folder cannot be used as an OCI layout.
#[cfg_attr(
    not(feature = "oci"),
    expect(unused_variables, reason = "no backend has options")
)]
pub fn open(uri: &RuntimeUri, options: OpenOptions) -> Result<Arc<dyn ImageRuntime>, OpenError> {
    match uri {
        #[cfg(feature = "cri")]
        RuntimeUri::Cri(socket) => {
            let runtime = crate::CriRuntime::connect(socket);
            #[cfg(feature = "oci")]
            if let Some(fetcher) = options.fetcher {
                return Ok(Arc::new(runtime.with_fetcher(fetcher)));
            }
            Ok(Arc::new(runtime))
        }
        #[cfg(not(feature = "cri"))]
        RuntimeUri::Cri(_) => Err(not_compiled_in(uri, "cri")),
        #[cfg(feature = "docker")]
        RuntimeUri::Docker(socket) => Ok(Arc::new(crate::DockerRuntime::new(socket))),
        #[cfg(not(feature = "docker"))]
        RuntimeUri::Docker(_) => Err(not_compiled_in(uri, "docker")),
        #[cfg(feature = "oci")]
        RuntimeUri::Oci(folder) => {
            let layout = crate::OciLayoutRuntime::open(folder, options.layout)?;
            Ok(Arc::new(layout))
        }
        #[cfg(not(feature = "oci"))]
        RuntimeUri::Oci(_) => Err(not_compiled_in(uri, "oci")),
    }
}

#[cfg(not(all(feature = "cri", feature = "docker", feature = "oci")))]
fn not_compiled_in(uri: &RuntimeUri, feature: &'static str) -> OpenError {
    OpenError::NotCompiledIn {
        uri: uri.clone(),
        feature,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_backends_that_are_compiled_in_open() {
        let folder = tempfile::tempdir().unwrap();
        let layout = format!("oci:{}", folder.path().display());
        for (uri, feature, compiled_in) in [
            ("unix:///x.sock", "cri", cfg!(feature = "cri")),
            ("docker:///x.sock", "docker", cfg!(feature = "docker")),
            (&layout, "oci", cfg!(feature = "oci")),
        ] {
            match open(&uri.parse().unwrap(), OpenOptions::default()) {
                Ok(_) => assert!(compiled_in, "{uri}"),
                Err(error) => {
                    assert!(!compiled_in, "{error}");
                    let expected = format!(
                        "cannot open {uri}: this program is built without the feature \"{feature}\" of fledged-cri"
                    );
                    assert_eq!(error.to_string(), expected);
                }
            }
        }
    }
}
