//! A server that aborts every TLS handshake.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The alert `handshake_failure` in a record of TLS 1.2 (RFC 5246, 7.2).
const ALERT: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 40];

/// A server that aborts every TLS handshake.
#[derive(Debug)]
pub(super) struct TlsTrap {
    addr: String,
    aborted: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TlsTrap {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let addr = listener.local_addr().expect("its address").to_string();
        let (aborted, ends) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, ending) = (Arc::clone(&aborted), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(&ALERT);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self {
            addr,
            aborted,
            ends,
            thread: Some(thread),
        }
    }

    /// `127.0.0.1:PORT`.
    pub(super) fn addr(&self) -> &str {
        &self.addr
    }

    /// Number of handshakes so far.
    pub(super) fn aborted(&self) -> usize {
        self.aborted.load(Ordering::SeqCst)
    }
}

impl Drop for TlsTrap {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
