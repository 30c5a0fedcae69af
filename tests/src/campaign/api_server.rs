//! The API server on threads of its own, so that it can be stopped as a process can.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::kube::TestCluster;

/// What can be done to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    /// Ends all connections and closes the socket; kube-apiserver gets SIGKILL. The objects stay.
    Kill,
    /// Serves again at the same address.
    Start,
    /// Keeps its connections and answers nothing; kube-apiserver gets SIGSTOP.
    Pause,
    /// Continues after [`Self::Pause`].
    Resume,
    /// Deletes its history.
    Compact,
}

/// The API server: that of `fledged-apiserver`, or kube-apiserver if `KUBEBUILDER_ASSETS` is set.
pub(super) struct ApiServer {
    pub(super) kubeconfig: PathBuf,
    pub(super) namespace: String,
    pub(super) tag: String,
    controls: Option<Sender<(Control, Sender<()>)>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    pub(super) fn start() -> Self {
        let (controls, received) = channel();
        let (described, description) = channel();
        let thread = std::thread::spawn(move || {
            // One worker: a task that blocks it stops everything, as SIGSTOP stops a process.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime for the API server");
            runtime.block_on(async {
                let cluster = TestCluster::start().await;
                let _ = described.send((
                    cluster.kubeconfig().to_owned(),
                    cluster.namespace().to_owned(),
                    cluster.tag().to_owned(),
                ));
                serve(cluster, &received).await;
            });
        });
        let (kubeconfig, namespace, tag) = description.recv().expect("an API server");
        Self {
            kubeconfig,
            namespace,
            tag,
            controls: Some(controls),
            thread: Some(thread),
        }
    }

    /// Does this and waits until it is done.
    pub(super) fn control(&self, control: Control) {
        let (done, is_done) = channel();
        if let Some(controls) = &self.controls {
            controls
                .send((control, done))
                .expect("a running API server");
            is_done.recv().expect("a running API server");
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.controls.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(mut cluster: TestCluster, controls: &Receiver<(Control, Sender<()>)>) {
    let mut paused: Option<Sender<()>> = None;
    while let Ok((control, done)) = controls.recv() {
        match control {
            Control::Kill => cluster.stop_server().await,
            Control::Start => cluster.start_server().await,
            Control::Compact => cluster.compact(),
            Control::Pause if cluster.signal_server(true) => {}
            Control::Pause => {
                let (resume, resumed) = channel();
                paused = Some(resume);
                tokio::spawn(async move {
                    let _ = resumed.recv();
                });
            }
            Control::Resume if cluster.signal_server(false) => {}
            Control::Resume => drop(paused.take()),
        }
        let _ = done.send(());
    }
}
