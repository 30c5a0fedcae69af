//! Set-up of logging and TLS.

use std::io::IsTerminal;

/// Logs to stderr and selects the TLS implementation. Both are decisions of the program, not of its libraries.
pub fn set_up() {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).init();
    fledged_cri::registry::ensure_tls_provider();
}
