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
/// Every image can be pulled; a pull fails only if a test scripts it.
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
    /// Starts a runtime that serves CRI v1.
    ///
    /// # Panics
    ///
    /// When the runtime cannot listen on its socket.
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

    /// Closes all connections and stops listening, as after SIGKILL: the socket's file stays without a listener, and
    /// open calls get no answer.
    ///
    /// # Panics
    ///
    /// When the runtime's thread panicked.
    pub fn kill(&mut self) {
        if let Some(running) = self.server.take() {
            let _ = running.stop.send(());
            running.thread.join().expect("the fake runtime's thread");
        }
    }

    /// Kills the runtime if it still runs, and serves again with the same images.
    ///
    /// # Panics
    ///
    /// When the runtime cannot listen on its socket.
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
            // Does not wait for connections, so these are cut.
            runtime.shutdown_background();
        });
        listens.recv().expect("the fake runtime to listen");
        self.server = Some(Running { stop, thread });
    }

    /// Sets the interface that the runtime serves from now on.
    pub fn serve(&self, interface: Interface) {
        self.state().interface = interface;
    }

    /// Adds an image.
    pub fn put_image(&self, image: FakeImage) {
        self.state().images.push(image);
    }

    /// Adds an image with one normalised name, and returns it.
    #[allow(clippy::must_use_candidate)]
    pub fn put(&self, name: &str) -> FakeImage {
        let image = FakeImage::named(name);
        self.put_image(image.clone());
        image
    }

    /// Pins or unpins an image.
    ///
    /// # Panics
    ///
    /// When there is no image of that name.
    pub fn set_pinned(&self, name: &str, pinned: bool) {
        let mut state = self.state();
        let mut images = state.images.iter_mut();
        let image = images.find(|image| image.answers_to(name));
        image.expect("an image of that name").pinned = pinned;
    }

    /// Removes all images without a request.
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

    /// Sets the name and version that it reports.
    pub fn set_runtime(&self, name: &str, version: &str) {
        self.state().runtime = (name.to_owned(), version.to_owned());
    }

    /// Sets what `Status` has as `info["config"]`.
    pub fn set_config(&self, config: &str) {
        self.state().config = Some(config.to_owned());
    }

    /// Removes all containers.
    pub fn remove_all_containers(&self) {
        self.state().containers.clear();
    }

    /// Adds a file system to the answer of `ImageFsInfo`.
    pub fn put_filesystem(&self, mountpoint: &Path, used_bytes: u64) {
        let mountpoint = mountpoint.display().to_string();
        self.state().filesystems.push((mountpoint, used_bytes));
    }

    /// Makes `times` pulls fail, after those that are already scripted.
    pub fn fail_pulls(&self, times: usize, code: Code, text: &str) {
        let failures = std::iter::repeat_n((code, text.to_owned()), times);
        self.state().pull_failures.extend(failures);
    }

    /// Makes `times` removals fail, after those that are already scripted.
    pub fn fail_removals(&self, times: usize, code: Code, text: &str) {
        let failures = std::iter::repeat_n((code, text.to_owned()), times);
        self.state().removal_failures.extend(failures);
    }

    /// Sets whether pulls report success and store nothing.
    pub fn forget_pulls(&self, forget: bool) {
        self.state().pulls_are_forgotten = forget;
    }

    /// Sets whether requests are received but not answered.
    pub fn set_unresponsive(&self, unresponsive: bool) {
        self.state().unresponsive = unresponsive;
    }

    /// Makes pulls wait until [`Self::release_pulls`].
    pub fn hold_pulls(&self) {
        self.held.send_replace(true);
    }

    /// Resumes waiting pulls and stops holding new ones.
    pub fn release_pulls(&self) {
        self.held.send_replace(false);
    }

    /// The number of running pulls.
    #[must_use]
    pub fn pulls_running(&self) -> usize {
        self.state().pulls_running
    }

    /// The number of pulls that ended because the client or the fake disconnected.
    #[must_use]
    pub fn pulls_cancelled(&self) -> usize {
        self.state().pulls_cancelled
    }

    /// Every request received so far, across restarts.
    #[must_use]
    pub fn requests(&self) -> Vec<CriRequest> {
        self.state().requests.clone()
    }

    /// Clears the request log.
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
