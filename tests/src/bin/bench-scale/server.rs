//! The API server of the benchmark.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use fledged_core::tokio::ShutdownSignal;
use fledged_kube::crd::ImageCache;

use fledged_tests::kube::TestCluster;
use kube::Api;
use kube::api::ListParams;
use tempfile::TempDir;

use crate::args::Args;
use crate::client::metered;
use crate::meter::Meter;

/// Time limit for the start of the embedded API server.
const START: Duration = Duration::from_secs(30);

/// An API server and its description.
pub(crate) struct Server {
    pub(crate) cluster: TestCluster,
    pub(crate) name: String,
    /// Dropped after the cluster, whose cleanup sends requests.
    pub(crate) embedded: Option<Embedded>,
}

/// The embedded API server in a separate process, so that its CPU time and memory can be measured. Dropping it stops
/// the process.
pub(crate) struct Embedded {
    child: Child,
    stdin: Option<ChildStdin>,
    folder: TempDir,
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Starts the API server that the arguments select.
pub(crate) async fn start(args: &Args) -> Result<Server, String> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty());
    match (&args.kubeconfig, assets) {
        (Some(path), _) => {
            check(path).await?;
            Ok(Server {
                cluster: TestCluster::start_on(path).await,
                name: format!("that of {}", path.display()),
                embedded: None,
            })
        }
        (None, Some(folder)) if !args.embedded => Ok(Server {
            cluster: TestCluster::start_assets(folder.as_ref()).await,
            name: "kube-apiserver and etcd, which does not wait for the disk".to_owned(),
            embedded: None,
        }),
        (None, _) => {
            let embedded = spawn().await?;
            let kubeconfig = embedded.folder.path().join("kubeconfig");
            Ok(Server {
                cluster: TestCluster::start_alone_on(&kubeconfig).await,
                name: "embedded, in a process of its own".to_owned(),
                embedded: Some(embedded),
            })
        }
    }
}

/// Checks that a cluster can be reached and has no ImageCaches, because the benchmark deletes all of them.
async fn check(kubeconfig: &Path) -> Result<(), String> {
    let client = metered(kubeconfig, &Meter::new()).await?;
    let fail = |error: kube::Error| format!("{}: {error}", kubeconfig.display());
    client.apiserver_version().await.map_err(fail)?;
    let caches: Api<ImageCache> = Api::all(client);
    let found = match caches.list_metadata(&ListParams::default()).await {
        Ok(found) => found.items,
        // Without the definition there are no ImageCaches.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(fail(error)),
    };
    let namespaces = found.into_iter().filter_map(|c| c.metadata.namespace);
    let mut foreign = namespaces.filter(|namespace| !namespace.starts_with("fledged-test-"));
    foreign.next().map_or(Ok(()), |namespace| {
        Err(format!(
            "{}: namespace {namespace} has ImageCaches; this removes all there are, and is for clusters without",
            kubeconfig.display()
        ))
    })
}

async fn spawn() -> Result<Embedded, String> {
    let folder = TempDir::with_prefix("bench-").map_err(|e| format!("no temporary folder: {e}"))?;
    let kubeconfig = folder.path().join("kubeconfig");
    let own = std::env::current_exe().map_err(|e| format!("no path of this program: {e}"))?;
    let mut child = Command::new(own)
        .arg("--serve")
        .arg(&kubeconfig)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start the embedded API server: {e}"))?;
    let stdin = child.stdin.take();
    let mut embedded = Embedded {
        child,
        stdin,
        folder,
    };
    let began = Instant::now();
    while !kubeconfig.exists() {
        if let Ok(Some(status)) = embedded.child.try_wait() {
            return Err(format!("the embedded API server ended with {status}"));
        }
        if began.elapsed() > START {
            return Err(format!("no embedded API server after {START:?}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(embedded)
}

/// Runs the embedded API server until standard input ends.
pub(crate) async fn serve(kubeconfig: &Path) -> Result<(), String> {
    // Ignore signals: the parent process decides when the server ends, also after Ctrl-C.
    let _signals = ShutdownSignal::listen().map_err(|error| error.to_string())?;
    let server = fledged_apiserver::Server::builder().start().await;
    let server = server.map_err(|error| error.to_string())?;
    let draft = kubeconfig.with_extension("draft");
    std::fs::write(&draft, server.kubeconfig())
        .and_then(|()| std::fs::rename(&draft, kubeconfig))
        .map_err(|e| format!("cannot write {}: {e}", kubeconfig.display()))?;
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = ended.await;
    server.shutdown().await;
    Ok(())
}
