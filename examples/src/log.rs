//! Where the log goes.

use std::io::IsTerminal;

/// Logs to stderr, and chooses what TLS connections are made with: both are up to the program, not to
/// its libraries.
pub fn set_up() {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).init();
    fledged_cri::registry::ensure_tls_provider();
}
