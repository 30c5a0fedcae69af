//! The one TLS provider.

/// Makes ring the process's TLS provider, unless one is set already.
///
/// Programs do this first thing in `main`; it is repeated before a client is built, so that a
/// library user who did not gets a working client.
pub fn ensure_tls_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails only when another thread was faster, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
