//! Which of several sockets is detected as this machine's runtime.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use fledged_cri::target::{DetectError, RuntimeUri};
use fledged_tests::{FakeCri, Interface};

/// A socket of Docker Engine that accepts connections.
struct Engine {
    _listener: UnixListener,
    folder: tempfile::TempDir,
}

impl Engine {
    fn start() -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        Self {
            _listener: UnixListener::bind(folder.path().join("docker.sock")).unwrap(),
            folder,
        }
    }

    fn uri(&self) -> RuntimeUri {
        RuntimeUri::Docker(self.folder.path().join("docker.sock"))
    }
}

fn cri(fake: &FakeCri) -> RuntimeUri {
    RuntimeUri::Cri(fake.socket())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containerd_without_cri_is_passed_over() {
    let (fake, engine) = (FakeCri::start(), Engine::start());
    fake.serve(Interface::None);
    let found = RuntimeUri::detect_among([cri(&fake), engine.uri()]).await;
    assert_eq!(found.unwrap(), engine.uri());

    let real = FakeCri::start();
    let found = RuntimeUri::detect_among([cri(&fake), cri(&real)]).await;
    assert_eq!(found.unwrap(), cri(&real));

    let error = RuntimeUri::detect_among([cri(&fake)]).await.unwrap_err();
    let text = format!("{}: serves no CRI", fake.uri());
    assert!(error.to_string().contains(&text), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_engine_is_not_taken_beside_a_cri_socket() {
    for interface in [Interface::V1, Interface::V1Alpha2] {
        let (fake, engine) = (FakeCri::start(), Engine::start());
        fake.serve(interface);
        let found = RuntimeUri::detect_among([engine.uri(), cri(&fake)]).await;
        assert_eq!(found.unwrap(), cri(&fake));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_cri_runtimes_are_an_error_that_lists_both() {
    let (one, two) = (FakeCri::start(), FakeCri::start());
    let error = RuntimeUri::detect_among([cri(&one), cri(&two)])
        .await
        .unwrap_err();
    let DetectError::Ambiguous { found } = &error else {
        panic!("{error}");
    };
    let sockets: Vec<PathBuf> = found.iter().map(|uri| uri.path().to_owned()).collect();
    assert_eq!(sockets, [one.socket(), two.socket()]);
    let text = error.to_string();
    assert!(
        text.contains(&one.uri()) && text.contains(&two.uri()),
        "{text}"
    );
    assert!(text.contains("select one with --runtime"), "{text}");
}
