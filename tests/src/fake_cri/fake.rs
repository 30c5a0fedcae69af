//! Starting, scripting and inspecting a fake runtime.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Code;
use tonic::transport::Server;
use tower::layer::layer_fn;

use super::server::{Services, Shown};
use super::state::{CriRequest, FakeContainer, FakeImage, Interface, State};
use crate::cri_proto::image_service_server::ImageServiceServer;
use crate::cri_proto::runtime_service_server::RuntimeServiceServer;

/// A CRI runtime on a Unix socket in a temporary folder, with its images in memory.
///
/// Every image exists in its registry; a pull fails only when scripted to.
pub struct FakeCri {
    state: Arc<Mutex<State>>,
    held: watch::Sender<bool>,
    server: Option<Running>,
    folder: TempDir,
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl FakeCri {
    /// Starts one that serves CRI v1.
    ///
    /// # Panics
    ///
    /// When it cannot listen on its socket.
    #[must_use]
    pub fn start() -> Self {
        let mut fake = Self {
            state: Arc::new(Mutex::new(State::new())),
            held: watch::Sender::new(false),
            server: None,
            folder: TempDir::with_prefix("fake-cri-").expect("a temporary folder"),
        };
        fake.restart();
        fake
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("cri.sock")
    }

    /// Its socket as `unix:///path`.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Cuts every connection and stops listening, as SIGKILL would: the socket's file stays, nothing
    /// listens on it, and no call gets an answer.
    ///
    /// # Panics
    ///
    /// When its thread panicked.
    pub fn kill(&mut self) {
        if let Some(running) = self.server.take() {
            let _ = running.stop.send(());
            running.thread.join().expect("the fake runtime's thread");
        }
    }

    /// Serves again with the images it had; kills it first where it still runs.
    ///
    /// # Panics
    ///
    /// When it cannot listen on its socket.
    pub fn restart(&mut self) {
        self.kill();
        let socket = self.socket();
        let _ = std::fs::remove_file(&socket);
        let services = Services::new(self.state.clone(), self.held.subscribe());
        let state = self.state.clone();
        let (stop, stopped) = oneshot::channel();
        let (listening, listens) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a tokio runtime");
            runtime.block_on(async {
                let listener = listen(&socket);
                listening.send(()).expect("a waiting test");
                tokio::select! {
                    () = serve(listener, services, state) => {}
                    _ = stopped => {}
                }
            });
            // Without waiting for anything: connections are cut.
            runtime.shutdown_background();
        });
        listens.recv().expect("the fake runtime to listen");
        self.server = Some(Running { stop, thread });
    }

    /// Which interface it serves from now on.
    pub fn serve(&self, interface: Interface) {
        self.state().interface = interface;
    }

    /// Adds an image.
    pub fn put_image(&self, image: FakeImage) {
        self.state().images.push(image);
    }

    /// Adds an image by that one normalised name; gives it back.
    #[allow(clippy::must_use_candidate)]
    pub fn put(&self, name: &str) -> FakeImage {
        let image = FakeImage::named(name);
        self.put_image(image.clone());
        image
    }

    /// Pins or unpins the image of that name.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn set_pinned(&self, name: &str, pinned: bool) {
        let mut state = self.state();
        let mut images = state.images.iter_mut();
        let image = images.find(|image| image.answers_to(name));
        image.expect("an image of that name").pinned = pinned;
    }

    /// Takes every image away behind everybody's back.
    pub fn remove_all_images(&self) {
        self.state().images.clear();
    }

    /// The images it holds.
    #[must_use]
    pub fn images(&self) -> Vec<FakeImage> {
        self.state().images.clone()
    }

    /// Whether it holds an image of that name, tag, digest or ID.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        self.state().find(name).is_some()
    }

    /// Adds a container.
    pub fn put_container(&self, container: FakeContainer) {
        self.state().containers.push(container);
    }

    /// Adds a container that uses the image with that ID.
    pub fn use_image(&self, image_id: &str) {
        self.put_container(FakeContainer {
            id: "c0ffee".repeat(10),
            name: "user".to_owned(),
            image_ref: image_id.to_owned(),
            ..FakeContainer::default()
        });
    }

    /// Takes every container away.
    pub fn remove_all_containers(&self) {
        self.state().containers.clear();
    }

    /// Adds a file system to the answer of `ImageFsInfo`.
    pub fn put_filesystem(&self, mountpoint: &Path, used_bytes: u64) {
        let mountpoint = mountpoint.display().to_string();
        self.state().filesystems.push((mountpoint, used_bytes));
    }

    /// Makes that many pulls fail, after those already scripted to.
    pub fn fail_pulls(&self, times: usize, code: Code, text: &str) {
        let failures = std::iter::repeat_n((code, text.to_owned()), times);
        self.state().pull_failures.extend(failures);
    }

    /// Makes that many removals fail, after those already scripted to.
    pub fn fail_removals(&self, times: usize, code: Code, text: &str) {
        let failures = std::iter::repeat_n((code, text.to_owned()), times);
        self.state().removal_failures.extend(failures);
    }

    /// Whether pulls report success and store nothing.
    pub fn forget_pulls(&self, forget: bool) {
        self.state().pulls_are_forgotten = forget;
    }

    /// Whether requests are received and never answered.
    pub fn set_unresponsive(&self, unresponsive: bool) {
        self.state().unresponsive = unresponsive;
    }

    /// Makes pulls wait until [`Self::release_pulls`].
    pub fn hold_pulls(&self) {
        self.held.send_replace(true);
    }

    /// Lets waiting pulls, and those to come, go on.
    pub fn release_pulls(&self) {
        self.held.send_replace(false);
    }

    /// How many pulls are under way.
    #[must_use]
    pub fn pulls_running(&self) -> usize {
        self.state().pulls_running
    }

    /// How many pulls ended because the client, or the fake itself, went away.
    #[must_use]
    pub fn pulls_cancelled(&self) -> usize {
        self.state().pulls_cancelled
    }

    /// Every request received so far, across restarts.
    #[must_use]
    pub fn requests(&self) -> Vec<CriRequest> {
        self.state().requests.clone()
    }

    /// Forgets the requests received so far.
    pub fn clear_requests(&self) {
        self.state().requests.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FakeCri {
    fn drop(&mut self) {
        self.kill();
    }
}

fn listen(socket: &Path) -> UnixListenerStream {
    UnixListenerStream::new(UnixListener::bind(socket).expect("the fake runtime's socket"))
}

async fn serve(listener: UnixListenerStream, services: Services, state: Arc<Mutex<State>>) {
    Server::builder()
        .layer(layer_fn(move |inner| Shown::new(inner, state.clone())))
        .add_service(RuntimeServiceServer::new(services.clone()))
        .add_service(ImageServiceServer::new(services))
        .serve_with_incoming(listener)
        .await
        .expect("the fake runtime's server");
}
